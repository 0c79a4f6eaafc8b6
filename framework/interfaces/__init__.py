"""The abstract interfaces: one for each of the method's seven parts, in data-flow order."""

from framework.interfaces.extractor import FeatureExtractor
from framework.interfaces.guidance import Guidance, GuidanceInputs
from framework.interfaces.injector import Injector
from framework.interfaces.mask import MaskProvider
from framework.interfaces.matcher import ImageMatcher, Matcher
from framework.interfaces.part import Part
from framework.interfaces.personalizer import Personalizer
from framework.interfaces.trajectory import ReferenceTrajectory

__all__ = [
    "FeatureExtractor",
    "Guidance",
    "GuidanceInputs",
    "ImageMatcher",
    "Injector",
    "MaskProvider",
    "Matcher",
    "Part",
    "Personalizer",
    "ReferenceTrajectory",
]
