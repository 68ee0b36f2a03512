# SPDX-License-Identifier: Apache-2.0
"""Chest X-rays as 8-bit pictures (see `load_cxr`) to `pixel_values`."""

from typing import Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import PILImageResampling


MAX_SIDE = 4096  # of what the model sees; encoders take 224 to 1024


class MedTVTImageProcessor(PilBackend):
    """
    Chest X-rays of any size to `pixel_values` of shape (B, 3, height, width), float32.

    Works with Pillow and NumPy alone, so that the values never depend on whether torchvision is installed. The
    defaults are those of `google/vit-base-patch16-224`. The MedTVT-R1 authors' evaluation transform, reproduced
    exactly, is `size={"shortest_edge": 400}, do_center_crop=True` with ImageNet's mean and standard deviation.

    [`MedTVTProcessor`] hands two settings to [`load_cxr`]: `min_decode_size`, which speeds up large JPEGs (grey levels
    then differ a little, so it is off, None, unless set), and `strict`, which refuses pictures that may be no frontal
    chest film.

    Raises:
        ValueError: if the mean or the deviation gives no numbers, or a side is not in 1..4096.
    """

    resample = PILImageResampling.BILINEAR
    size = {"height": 224, "width": 224}
    crop_size = {"height": 224, "width": 224}
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]
    do_convert_rgb = True
    do_resize = True
    do_center_crop = False
    do_rescale = True
    do_normalize = True
    min_decode_size = None
    strict = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        _check_settings({name: getattr(self, name, None) for name in (*NUMBERS, *SIZES)})

    def _validate_preprocess_kwargs(self, *args: Any, **kwargs: Any) -> None:
        # what a call says instead; transformers passes keywords only
        _check_settings(kwargs)
        super()._validate_preprocess_kwargs(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={dict(self.size)}, do_center_crop={self.do_center_crop})"

    def convert_to_rgb(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        """Three channels; those of a grey PIL image are views of one."""
        if isinstance(image, Image.Image) and image.mode == "L":
            return np.broadcast_to(np.asarray(image)[..., None], (image.height, image.width, 3))
        return super().convert_to_rgb(image, *args, **kwargs)

    def resize(self, image: np.ndarray, size: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """As in transformers; where the channels of a (C, H, W) array are views of one, it is resized once."""
        if len(image) > 1 and image.strides[0] == 0:
            return super().resize(image[:1], size, *args, **kwargs).repeat(len(image), axis=0)
        return super().resize(image, size, *args, **kwargs)

    def center_crop(self, image: np.ndarray, size: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """
        The central `size.height` x `size.width` of a (C, H, W) array; a smaller image is padded with zeros first.

        As in torchvision, half a pixel of offset is rounded to even; transformers rounds it down.
        """
        height, width = image.shape[-2:]
        pad_y, pad_x = max(size.height - height, 0), max(size.width - width, 0)
        image = np.pad(image, ((0, 0), (pad_y // 2, pad_y - pad_y // 2), (pad_x // 2, pad_x - pad_x // 2)))
        top = round((image.shape[-2] - size.height) / 2)
        left = round((image.shape[-1] - size.width) / 2)
        return image[..., top : top + size.height, left : left + size.width]


NUMBERS = ("image_mean", "image_std")
SIZES = ("size", "crop_size", "min_decode_size")


def _check_settings(settings: dict[str, Any]) -> None:
    for name in NUMBERS:
        given = settings.get(name)
        values = np.atleast_1d(np.asarray(0.5 if given is None else given, dtype=float))
        zero_is_bad = name == "image_std"
        if not np.isfinite(values).all() or (zero_is_bad and (values == 0).any()):
            raise ValueError(f"`{name}` must be finite numbers{' other than 0' * zero_is_bad}, got {values}.")
    for name in SIZES:
        given = settings.get(name)
        sides = [given] if given is None or isinstance(given, (int, float)) else list(dict(given).values())
        for side in sides:
            if side is not None and not (isinstance(side, int) and 1 <= side <= MAX_SIDE):
                raise ValueError(f"`{name}` must be whole numbers of pixels in 1..{MAX_SIDE}, got {given}.")


__all__ = ["MedTVTImageProcessor"]
