"""The base of all other packages: errors, files, sizes, random numbers, options, registries."""
