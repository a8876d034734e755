"""CRAIG: facility location on gradient distances."""
