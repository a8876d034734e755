"""How things fail, are written to disk, sized and drawn: what every other room stands on."""
