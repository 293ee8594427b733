"""The card of a checkpoint: parts, usage, training, evaluation, limits, licence."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError
from yaml import YAMLError

from anymodality.plain.files import read_json
from anymodality.plain.inspection import Inspection, PartInfo
from anymodality.plain.printing import as_code, as_json, fence, in_markdown, visible

from ..model.configuration import AnyModalityConfig
from ..utils.hub import is_hub_id
from .history import read_history, read_results
from .inspect import inspect_checkpoint


UNKNOWN = "unknown"

# From permissive to strict, by the Hub's names. The terms of all of them apply to the whole; this order only chooses the one
# that the card's metadata shows.
_RANKS = (
    ("cc0-1.0", "unlicense", "wtfpl", "pddl"),
    ("mit", "apache-2.0", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "zlib", "cc-by-3.0", "cc-by-4.0", "ms-pl"),
    ("mpl-2.0", "lgpl", "lgpl-3.0", "cc-by-sa-4.0", "cc-by-sa-3.0", "gpl", "gpl-2.0", "gpl-3.0", "agpl-3.0"),
    ("openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "bigscience-bloom-rail-1.0")
    + ("bigcode-openrail-m", "gemma", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"),
    ("cc-by-nd-4.0", "other"),
    ("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    ("cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "fair-noncommercial-research-license"),
    ("cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0"),
    (UNKNOWN,),
)

_TEMPLATE = Path(__file__).with_name("template.md")
# A file of each modality in the card's code. Files of other modalities have the modality's name.
_FILES = {
    "image": "photo.jpg",
    "video": "clip.mp4",
    "audio": "speech.wav",
    "imu": "walk.csv",
    "depth": "depth.png",
    "thermal": "thermal.png",
    "text": "page.txt",
}
# Modality -> extras of this package that it needs.
_EXTRAS = {"image": "image", "depth": "image", "thermal": "image", "video": "image,video", "audio": "audio"}


@dataclass(frozen=True)
class Licences:
    """
    Args:
        whole: licence of the checkpoint. Default: the strictest of its parts.
        parts: part -> its licence. Default: that of its source's card.
        notes: sentences for the card.
    """

    whole: str | None = None
    parts: Mapping[str, str] = field(default_factory=dict)
    notes: Iterable[str] = ()


def write_card(folder: str | Path, **settings: Any) -> ModelCard:
    """Writes `README.md` into a checkpoint's folder; arguments are those of `make_card`."""
    card = make_card(folder, **settings)
    (Path(folder) / "README.md").write_text(f"{card}\n", encoding="utf-8")
    return card


def make_card(
    folder: str | Path | None,
    *,
    name: str | None = None,
    inspection: Inspection | None = None,
    licences: Licences | None = None,
    base_models: Iterable[str] | None = None,
    languages: Iterable[str] = (),
    datasets: Iterable[str] = (),
    tags: Iterable[str] = (),
    results: str | Path | None = None,
    **words: Any,
) -> ModelCard:
    """The card of a checkpoint, from the checkpoint.

    Args:
        folder: the checkpoint; None for a card of an `inspection` alone.
        name: Hub id or title; the folder's name if left out.
        inspection: of the checkpoint; made here if left out.
        licences: what is known of them.
        base_models: Hub ids; those that its parts were made from if left out.
        languages: ISO 639 codes; those of the language model's own card if left out.
        datasets: Hub ids of what it was trained on.
        tags: for the metadata, besides "anymodality".
        results: file of `anymodality evaluate`; `results.json` in the folder if left out.
        words: `summary`, the first paragraph; `recipe`, YAML that it was trained by; `sections`, title -> Markdown;
            `limits`, what it cannot do, a sentence each; `origin` of parts whose source the checkpoint does not know.

    Raises:
        ValueError: metadata that the Hub would refuse, or results that `anymodality evaluate` did not write.
    """
    place = None if folder is None else Path(folder)
    facts = _Facts(place, name or place.resolve().name, inspection, licences or Licences(), results)
    parts, modalities = facts.inspection.parts, [modality.name for modality in facts.inspection.modalities]
    if base_models is None:
        base_models = dict.fromkeys(part.source for part in parts if is_hub_id(part.source))
    base_models = list(base_models)
    trained = facts.history is not None or any(part.trained for part in parts)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="any-to-any" if modalities else None,
        base_model=base_models or None,
        base_model_relation=("finetune" if trained or len(base_models) == 1 else "merge") if base_models else None,
        license=facts.licence,
        language=list(languages) or facts.languages or None,
        datasets=list(datasets) or None,
        tags=["anymodality", *tags, *modalities],
        model_name=facts.name.rpartition("/")[2] if facts.results else None,
        eval_results=facts.results or None,
        metrics=sorted({result.metric_type for result in facts.results}) or None,
    )
    check_metadata(data)
    return ModelCard.from_template(data, template_path=str(_TEMPLATE), **_context(facts, **words))


class _Facts:
    """The facts of a checkpoint. The inspection is empty if it is not a composite."""

    def __init__(
        self,
        folder: Path | None,
        name: str,
        inspection: Inspection | None,
        licences: Licences,
        results: str | Path | None,
    ):
        if inspection is None:
            inspection = inspect_checkpoint(folder) if _is_composite(folder) else Inspection(name, [], [])
        self.name, self.inspection = name, inspection
        cards = {part.name: published_card(part.source) for part in inspection.parts if part.source}
        self.licences = {**{part: licence_of(card) for part, card in cards.items()}, **licences.parts}
        self.licence = licences.whole or strictest(self.licences.values())
        self.notes = [*_licence_notes(self.licence, self.licences, licences.whole is not None), *licences.notes]
        self.languages = _languages(cards.get("language_model"))
        self.history = folder and read_history(folder)
        file = results or (folder and folder / "results.json")
        self.results = read_results(Path(file)) if file else []
        self.adapter = folder is not None and (folder / "adapter").is_dir()


def _context(
    facts: _Facts,
    summary: str | None = None,
    recipe: str | None = None,
    sections: Mapping[str, str] | None = None,
    limits: Iterable[str] = (),
    origin: str = "made here",
) -> dict[str, Any]:
    """The template's variables."""
    parts, modalities = facts.inspection.parts, facts.inspection.modalities
    extras = {extra for one in modalities for extra in _EXTRAS.get(one.name, "signal").split(",")}
    return {
        "facts": facts,
        "line": in_markdown,
        "code": as_code,
        "string": as_json,
        "fence": fence(recipe or ""),
        "summary": summary or _summary(facts.inspection),
        "parts": [_row(part, facts.licences, origin) for part in parts],
        "modalities": [{**asdict(one), "file": _FILES.get(one.name, one.name)} for one in modalities],
        "extras": ",".join(sorted(extras | {"image"})),
        "recipe": recipe and visible(recipe.strip()),
        "sections": dict(sections or {}),
        "limits": [*limits, *_limits(parts, bool(facts.results))],
    }


def _is_composite(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("model_type") == AnyModalityConfig.model_type


_LANGUAGE = r"[a-z]{2,3}|code|multilingual"


def check_metadata(data: ModelCardData) -> None:
    """Raises ValueError for metadata that the Hub would refuse, as far as can be said offline."""
    for key in ("base_model", "datasets"):
        for one in getattr(data, key) or ():
            if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", one):
                raise ValueError(f"{key}: {one!r} is not an id of the Hub.")
    for language in data.language or ():
        if not re.fullmatch(_LANGUAGE, language):
            raise ValueError(f"language: {language!r} is not an ISO 639 code, such as 'en'.")
    if data.license is not None and not re.fullmatch(r"[a-z0-9.+-]+", data.license):
        raise ValueError(
            f"license: {data.license!r} is not a name that the Hub knows, such as 'apache-2.0' or 'other'."
        )
    again = ModelCard(f"---\n{data.to_yaml()}\n---\n").data
    if again.to_dict() != data.to_dict():
        raise ValueError(
            "The card's metadata change when they are written as YAML and read again: look for odd characters."
        )


def _row(part: PartInfo, licences: Mapping[str, str], origin: str) -> dict[str, Any]:
    source = origin
    if part.source:
        source = (
            f"[{part.source}](https://huggingface.co/{part.source})" if is_hub_id(part.source) else "a local folder"
        )
        source += f" at {as_code(part.revision[:12])}" if part.revision else ""
    trained = {True: "yes", False: "no, frozen", None: ""}[part.trained]
    licence = licences.get(part.name, UNKNOWN if part.source else "")
    return {**asdict(part), "source": source, "trained": trained, "licence": licence}


def _summary(inspection: Inspection) -> str:
    if not inspection.parts:
        return "A tower for [transformers-anymodality](https://pypi.org/project/transformers-anymodality/)."
    modalities = ", ".join(in_markdown(modality.name) for modality in inspection.modalities)
    light = " A light checkpoint: unchanged parts are loaded from where they came from." if inspection.light else ""
    language = inspection.parts[0]
    return (
        f"A language model ({in_markdown(language.type)}) that also reads {modalities}. One ordinary Transformers model, "
        f"composed by transformers-anymodality; it stores {inspection.parameters:,} parameters.{light}"
    )


def _languages(card: Any) -> list[str]:
    """The languages of the language model's card that the Hub knows. YAML reads `no` (Norwegian) as false."""
    found = getattr(card, "language", None) or []
    found = ["no" if one is False else one for one in ([found] if isinstance(found, str) else found)]
    return [one for one in found if isinstance(one, str) and re.fullmatch(_LANGUAGE, one)]


def _limits(parts: list[PartInfo], evaluated: bool) -> list[str]:
    limits = [] if evaluated else ["It was not evaluated, so the quality of its answers is unknown."]
    idle = [part.name for part in parts if part.name.endswith("_aligner") and part.trained is False]
    if parts and all(part.trained is None for part in parts):
        limits.append(
            "The checkpoint does not say what was trained. New aligners are random: until they are trained, answers about "
            "media mean nothing."
        )
    elif idle:
        limits.append(f"Never trained: {', '.join(map(as_code, idle))}. Answers about their media mean nothing.")
    return limits


# --- licences ----------------------------------------------------------------------------------------------------------


def strictest(licences: Iterable[str]) -> str:
    """The strictest licence; "unknown" if one is unknown, or there are none. Names not listed here count as "other"."""
    ranks = {name: rank for rank, names in enumerate(_RANKS) for name in names}
    return max(licences, key=lambda name: ranks.get(name.lower(), ranks["other"]), default=UNKNOWN)


def published_card(source: str) -> CardData | None:
    """The metadata of the card of a part's source, in its folder or on the Hub; None without a card."""
    try:
        return ModelCard.load(
            Path(source, "README.md") if Path(source).exists() else source, ignore_metadata_errors=True
        ).data
    except (OSError, HfHubHTTPError, ValueError, YAMLError):
        return None


def licence_of(card: Any) -> str:
    """The Hub's name of the licence in a card's metadata."""
    found = getattr(card, "license", None) or UNKNOWN
    return strictest(str(one).lower() for one in (found if isinstance(found, list) else [found]))


def _licence_notes(whole: str, named: Mapping[str, str], stated: bool) -> list[str]:
    by_licence: dict[str, list[str]] = {}
    for part, licence in named.items():
        by_licence.setdefault(in_markdown(licence), []).append(as_code(part))
    notes = [f"{licence}: {', '.join(parts)}" for licence, parts in by_licence.items()]
    if UNKNOWN in by_licence:
        parts = ", ".join(by_licence[UNKNOWN])
        so = "" if stated else "The licence of the whole is unknown, because that of a part is. "
        notes.append(f"{so}Ask who published {parts} before you use it.")
    elif not stated and len(by_licence) > 1:
        notes.append(f"The metadata name the strictest of these, {whole}; all of their terms apply.")
    return notes or [whole]
