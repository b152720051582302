"""Image sets, decoded once and held in memory as uint8, and the calibration images drawn from them.

To add a data set, write one file with a factory that returns a `DataSet`, name it here, and give it a yaml in
`conf/data/` whose `_target_` is that factory.
"""

from quant_sweep.data.array_files import arrays
from quant_sweep.data.base import DataSet, ImageSet
from quant_sweep.data.calibration_images import CalibrationImages, TrainingImages, draw_calibration_images
from quant_sweep.data.from_factory import custom
from quant_sweep.data.image_folder import imagefolder
from quant_sweep.data.pictures import pictures
from quant_sweep.data.scikit_digits import digits
from quant_sweep.data.subset import balanced_indices, calibration_indices
from quant_sweep.data.torchvision_cifar10 import cifar10

__all__ = [
    "CalibrationImages",
    "DataSet",
    "ImageSet",
    "TrainingImages",
    "arrays",
    "balanced_indices",
    "calibration_indices",
    "cifar10",
    "custom",
    "digits",
    "draw_calibration_images",
    "imagefolder",
    "pictures",
]
