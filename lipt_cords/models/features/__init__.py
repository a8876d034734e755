"""Features without training: what a sample is, as a row of numbers, for closed-form choices."""

# Importing a kind's module registers it.
import lipt_cords.models.features.columns
import lipt_cords.models.features.ngrams
import lipt_cords.models.features.patches  # noqa: F401
from lipt_cords.models.features.extract import Features, features
from lipt_cords.models.features.kinds import FeatureMap, Samples, register_features

__all__ = ["FeatureMap", "Features", "Samples", "features", "register_features"]
