"""Volumes of a scanner: your own modality, with a 3-D tower, that reads NIfTI files and DICOM series.

    pip install "transformers-anymodality[train,examples]"
    python examples/volumes.py [--output outputs/volumes] [--steps 150]

Toy scans hold a ball of water with a bright lesion on one of six sides. They are written as scanners do: axes in any
order and direction, slices in files of any name, counts that a slope and an intercept turn into Hounsfield units,
unequal spacing. The model is asked on which side the lesion is, which only who reads all that can tell. Two minutes on a
CPU. Nothing here is for a patient.
"""

import argparse
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import torch
from digits_world.parts import CHAT_TEMPLATE
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoFeatureExtractor,
    BatchFeature,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)
from transformers.feature_extraction_utils import FeatureExtractionMixin

from transformers_anymodality import (
    AnyModalityDataCollator,
    MediaError,
    ModalitySpec,
    compose,
    register_modality,
    register_tower,
)
from transformers_anymodality.modalities import DEFAULT_LIMITS


# Side of the patient -> its direction in the axes of NIfTI: to the right's right, to the front, to the head.
SIDES = {
    "left": (-1, 0, 0),
    "right": (1, 0, 0),
    "back": (0, -1, 0),
    "front": (0, 1, 0),
    "feet": (0, 0, -1),
    "head": (0, 0, 1),
}
AIR = -1000.0  # Hounsfield units


# --- reading ---------------------------------------------------------------------------------------------------------


def read_volume(path: Path, limits: Any = DEFAULT_LIMITS) -> tuple[np.ndarray, np.ndarray]:
    """A NIfTI file, or the folder of one DICOM series.

    Returns:
        Values in the file's units, float32 (x, y, z), axes to the patient's right, front and head; and the millimetres
        between neighbours along each.

    Raises:
        MediaError: not one volume, or slices missing.
    """
    image = _dicom_image(path, limits) if path.is_dir() else _nifti_image(path)
    if len(image.shape) != 3:
        raise MediaError(f"{path} has shape {image.shape}, expected one volume of three axes.")
    limits.check("max_bytes", 8 * int(np.prod(image.shape)), f"{path} has {image.shape} values")
    image = nibabel.as_closest_canonical(image)
    return image.get_fdata(dtype=np.float32), np.asarray(image.header.get_zooms(), dtype=np.float64)


def _nifti_image(path: Path) -> nibabel.Nifti1Image:
    try:
        return nibabel.load(path)
    except (OSError, nibabel.filebasedimages.ImageFileError) as error:
        raise MediaError(f"{path} is not a NIfTI file, nor the folder of a DICOM series: {error}") from error


def _dicom_image(folder: Path, limits: Any) -> nibabel.Nifti1Image:
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    limits.check("max_frames", len(files), f"{folder} has {len(files)} files")
    try:
        slices = [pydicom.dcmread(file) for file in files]
        if len({(one.SeriesInstanceUID, tuple(one.ImageOrientationPatient)) for one in slices}) != 1:
            raise MediaError(f"{folder} holds several series, or none: give a folder of slices of one.")
        # Along a row of pixels, down its columns, and from slice to slice, in DICOM's axes: to the left, the back, the head.
        along_row, down = np.asarray(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
        normal = np.cross(along_row, down)
        slices.sort(key=lambda one: float(np.dot(normal, one.ImagePositionPatient)))
        places = np.asarray([one.ImagePositionPatient for one in slices], dtype=float)
        gaps = np.diff(places @ normal)
        if len(gaps) and (gaps.min() <= 0 or np.ptp(gaps) > 0.01 * gaps.mean()):
            raise MediaError(
                f"{folder} lacks slices, or holds some twice: they lie {gaps.round(3).tolist()} mm apart."
            )
        values = [one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in slices]
        between_rows, between_columns = map(float, slices[0].PixelSpacing)
    except (AttributeError, TypeError, pydicom.errors.InvalidDicomError) as error:
        raise MediaError(f"{folder} holds a file that is not a slice of a CT series: {error}") from error
    affine = np.eye(4)
    step = normal * (gaps.mean() if len(gaps) else float(slices[0].SliceThickness))
    affine[:3] = np.stack([along_row * between_columns, down * between_rows, step, places[0]], axis=1)
    affine[:2] *= -1  # NIfTI's axes point to the right and the front
    return nibabel.Nifti1Image(np.stack(values, axis=-1).swapaxes(0, 1).astype(np.float32), affine)


class VolumeProcessor(FeatureExtractionMixin):
    """Puts volumes on one grid: cubes of `size` values a side over `field` millimetres around each volume's middle, values
    between `low` and `high` brought to 0 and 1, and 0 outside of what was scanned."""

    model_input_names = ["input_values"]

    def __init__(self, size: int = 24, field: float = 96.0, low: float = AIR, high: float = 1000.0, **kwargs):
        super().__init__(**kwargs)
        self.size, self.field, self.low, self.high = size, field, low, high

    def __call__(self, volumes: list, return_tensors: str | None = "pt", **kwargs) -> BatchFeature:
        """`volumes`: pairs as `read_volume` gives them. Returns float32 `input_values (items, 1, size, size, size)`."""
        cubes = torch.cat([self._cube(values, spacing) for values, spacing in volumes])
        return BatchFeature({"input_values": cubes.numpy()}, tensor_type=return_tensors)

    def _cube(self, values: np.ndarray, spacing: np.ndarray) -> torch.Tensor:
        millimetres = torch.linspace(-0.5, 0.5, self.size) * self.field
        extents = [(count - 1) * step / 2 for count, step in zip(values.shape, spacing, strict=True)]
        axes = torch.meshgrid(*(millimetres / max(extent, 1e-6) for extent in extents), indexing="ij")
        grid = torch.stack(axes[::-1], dim=-1)[None]  # `grid_sample` names the last axis first
        scaled = torch.from_numpy((values.clip(self.low, self.high) - self.low) / (self.high - self.low))
        return nn.functional.grid_sample(scaled[None, None].float(), grid.float(), align_corners=True)


class VolumeProcessorConfig(PreTrainedConfig):
    """Stands for `VolumeProcessor` in the table of AutoFeatureExtractor, whose keys are configs."""

    model_type = "volume_processor"


AutoFeatureExtractor.register(VolumeProcessorConfig, VolumeProcessor, exist_ok=True)


@dataclass(frozen=True, kw_only=True)
class VolumeSpec(ModalitySpec):
    medium = "pixels"
    processor_kind = "feature_extractor"
    suffixes = (".nii", ".nii.gz")

    def default_processor(self, tower_config: PreTrainedConfig, options: dict[str, Any]) -> VolumeProcessor:
        return VolumeProcessor(size=tower_config.size)

    def is_item(self, value: Any) -> bool:
        return not isinstance(value, list)

    def read(self, source: Any, processor: Any, options: dict[str, Any], **access) -> tuple[np.ndarray, np.ndarray]:
        if isinstance(source, tuple):
            return source
        if not isinstance(source, (str, Path)) or not Path(source).exists():
            raise MediaError(f"{source!r}: expected a NIfTI file, a folder of a DICOM series, or (values, spacing).")
        return read_volume(Path(source), access.get("limits", DEFAULT_LIMITS))

    def dummy(self, processor: Any, options: dict[str, Any], size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        return scan("left", random.Random(size))


register_modality(VolumeSpec(name="volume"), exist_ok=True)


# --- the tower -------------------------------------------------------------------------------------------------------


class VolumeConfig(PreTrainedConfig):
    model_type = "toy_volume"
    hidden_size: int = 64
    size: int = 24
    initializer_range: float = 0.1  # the model is small, and learns from nothing


@register_tower
class VolumeTower(PreTrainedModel):
    config: VolumeConfig
    main_input_name = "input_values"

    def __init__(self, config: VolumeConfig):
        super().__init__(config)
        width = config.hidden_size
        self.convolutions = nn.Sequential(
            nn.Conv3d(1, width // 4, 3, stride=2, padding=1),
            nn.GroupNorm(1, width // 4),
            nn.GELU(),
            nn.Conv3d(width // 4, width // 2, 3, stride=2, padding=1),
            nn.GroupNorm(1, width // 2),
            nn.GELU(),
            nn.Conv3d(width // 2, width, 3, stride=2, padding=1),
            nn.GroupNorm(1, width),
            nn.GELU(),
        )
        self.mix = nn.Linear(width * (config.size // 8) ** 3, width)
        self.post_init()

    def forward(self, input_values: torch.Tensor, **kwargs) -> torch.Tensor:
        """`(items, 1, size, size, size)` -> features `(items, 1, width)`."""
        return self.mix(self.convolutions(input_values).flatten(1))[:, None]


# --- toy scans -------------------------------------------------------------------------------------------------------


def scan(side: str, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """A ball of water in air with a lesion on a side, in Hounsfield units; as `read_volume` gives it."""
    spacing = np.asarray([rng.uniform(3, 6) for _ in range(3)])
    shape = np.ceil(90 / spacing).astype(int) + 1
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) * spacing - (shape - 1) * spacing / 2
    lesion = 24 * np.asarray(SIDES[side]) + [rng.uniform(-6, 6) for _ in range(3)]
    values = np.where(np.linalg.norm(places, axis=-1) < 40, 0.0, AIR)
    values[np.linalg.norm(places - lesion, axis=-1) < 10] = 800.0
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 20, values.shape)
    return (values + noise).clip(AIR).astype(np.float32), spacing


def _turned(values: np.ndarray, spacing: np.ndarray, rng: random.Random) -> nibabel.Nifti1Image:
    """The scan with its axes in any order and direction, as its affine says."""
    image = nibabel.Nifti1Image(values, np.diag([*spacing, 1.0]))
    order = rng.sample(range(3), 3)
    return image.as_reoriented(np.asarray([[axis, rng.choice((-1, 1))] for axis in order]))


def write_nifti(values: np.ndarray, spacing: np.ndarray, path: Path, rng: random.Random) -> None:
    image = _turned(values, spacing, rng)
    image.header.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    nibabel.save(image, path)


def write_dicom(values: np.ndarray, spacing: np.ndarray, folder: Path, rng: random.Random) -> None:
    image = _turned(values, spacing, rng)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine  # DICOM's axes point to the left and the back
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    counts = np.rint((image.get_fdata() - AIR) / 0.5).astype(np.uint16)
    names = rng.sample(range(1000), counts.shape[2])  # which tell nothing of the order
    series, study = generate_uid(), generate_uid()
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID, data.Modality = series, study, "CT"
        data.ImageOrientationPatient = [*(affine[:3, 0] / steps[0]), *(affine[:3, 1] / steps[1])]
        data.ImagePositionPatient = [round(value, 6) for value in (affine @ [0, 0, number, 1])[:3].tolist()]
        data.PixelSpacing = [round(steps[1], 6), round(steps[0], 6)]  # between rows, between columns
        data.SliceThickness = round(steps[2], 6)
        data.RescaleSlope, data.RescaleIntercept = 0.5, AIR
        data.Columns, data.Rows = counts.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 16, 15
        data.PixelData = counts[:, :, number].T.tobytes()
        data.save_as(folder / f"{name:04}.dcm", enforce_file_format=True)


def write_scans(folder: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Chats about new scans, every other one a DICOM series."""
    rng, samples = random.Random(seed), []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        side = list(SIDES)[number // 2 % len(SIDES)]
        kind = ("nifti", "dicom")[number % 2]
        path = folder / (f"{number:04}.nii.gz" if kind == "nifti" else f"{number:04}")
        (write_nifti if kind == "nifti" else write_dicom)(*scan(side, rng), path, rng)
        question = [{"type": "volume", "path": str(path)}, {"type": "text", "text": "which side ?"}]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": side}]
        samples.append({"messages": messages, "kind": kind})
    return samples


# --- the model -------------------------------------------------------------------------------------------------------


def make_model() -> tuple[Any, Any]:
    words = ["<pad>", "<s>", "</s>", "<unk>", *SIDES, *"user assistant : which side ?".split()]
    backend = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHAT_TEMPLATE, **special)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **ids))
    volume = {"tower": VolumeTower(VolumeConfig()), "aligner": "linear", "num_tokens": 1}
    return compose(language_model, {"volume": volume}, tokenizer=tokenizer)


@torch.no_grad()
def accuracy(model: Any, processor: Any, samples: list[dict[str, Any]]) -> float:
    right = 0
    for sample in samples:
        question, answer = sample["messages"]
        inputs = processor.apply_chat_template(
            [question], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.generate(**inputs, max_new_tokens=1, do_sample=False)
        right += processor.batch_decode(output[:, -1:])[0].strip() == answer["content"]
    return right / len(samples)


def main(arguments: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/volumes"), help="folder for scans and model, new")
    parser.add_argument("--steps", type=int, default=150, help="steps of training, of 16 scans each")
    chosen = parser.parse_args(arguments)
    train, test = (
        write_scans(chosen.output / name, count, len(name)) for name, count in (("train", 192), ("test", 48))
    )
    model, processor = make_model()
    kinds = {kind: [sample for sample in test if sample["kind"] == kind] for kind in ("nifti", "dicom")}
    before = {kind: accuracy(model, processor, samples) for kind, samples in kinds.items()}
    settings = TrainingArguments(
        output_dir=str(chosen.output / "model"),
        max_steps=chosen.steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        warmup_steps=10,
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        use_cpu=True,
    )
    Trainer(model=model, args=settings, train_dataset=train, data_collator=AnyModalityDataCollator(processor)).train()
    model.eval()
    model.save_pretrained(chosen.output / "model", processor=processor)
    results = {kind: [before[kind], accuracy(model, processor, samples)] for kind, samples in kinds.items()}
    for kind, (first, last) in results.items():
        print(f"{kind}: {first:.0%} of new scans before, {last:.0%} after")
    return results


if __name__ == "__main__":
    main()
