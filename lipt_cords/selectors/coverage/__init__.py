"""Coverage: samples that stand for all others of a group, by distances between rows of features."""

# Importing a method's module registers it.
import lipt_cords.selectors.coverage.facility_location
import lipt_cords.selectors.coverage.herding
import lipt_cords.selectors.coverage.k_centre
import lipt_cords.selectors.coverage.kmeans  # noqa: F401
from lipt_cords.selectors.coverage.methods import COVERAGES, register_coverage

__all__ = ["COVERAGES", "register_coverage"]
