"""Cheaper training: progressive subnetworks (RaPTr) and Early-Bird tickets."""
