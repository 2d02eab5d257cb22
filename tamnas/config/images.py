"""Where images come from, how they are split and how they are augmented."""

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tamnas.config.fields import Positive, Section
from tamnas.data.sources import SOURCES


class ImagesParams(Section):
    """Where images come from and how they are split; sizes in images, `size` in pixels.

    `validation`, `test` null take the source's whole split of that name, a number so many of it (of the training images
    where there is none), `train` null all that is left. `merge_validation` trains on the validation images too, selects
    on the test split. `url`: a folder on the web instead of the official homes. `images`: whose a user's files hold.
    """

    source: str
    path: str | None = None
    url: str | None = None
    images: Literal["cifar10", "svhn", "svhn-subset"] | None = None
    classes: Annotated[int, Field(ge=2, le=2**16)] = 10
    size: Annotated[int, Field(ge=4, le=512)] = 32
    train: Positive | None = None
    validation: Positive | None = None
    test: Positive | None = None
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    merge_validation: bool = False

    @model_validator(mode="after")
    def _check(self):
        source = SOURCES.get(self.source)
        if source is None:
            raise ValueError(f"source is {self.source!r}; allowed: {', '.join(SOURCES)}")
        if source.needs_path and not self.path:
            raise ValueError(f"path: is missing; the source {self.source} needs one")
        for split in ("validation", "test"):
            if split not in source.own_splits and getattr(self, split) is None:
                raise ValueError(f"{split}: is missing; the source {self.source} has no {split} split of its own")
        if self.url is not None and not source.downloads:
            able = " and ".join(name for name, known in SOURCES.items() if known.downloads)
            raise ValueError(f"url: the source {self.source} downloads nothing; allowed for {able}")
        if self.images and source.downloads:
            raise ValueError(f"images: is {self.images!r}; the source {self.source} says itself whose it holds")
        if self.images and self.classes != 10:
            raise ValueError(f"images: is {self.images!r}, which has 10 classes, not {self.classes}")
        if self.url is not None and not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", self.url):
            raise ValueError(f"url is {self.url!r}; allowed: the web address of a folder, http://... or https://...")
        return self

    @property
    def whose(self) -> str | None:
        """Whose images these are: of the source itself or as `images` says; None: nobody's that the paper used."""
        return self.source if SOURCES[self.source].downloads else self.images


class AugmentParams(Section):
    pad: Annotated[int, Field(ge=0, le=16)] = 0
    flip: bool = False


class DataParams(ImagesParams):
    augment: AugmentParams = AugmentParams()
