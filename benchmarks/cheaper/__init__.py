"""Cheaper steps of workers: progressive subnetworks and Early-Bird tickets."""
