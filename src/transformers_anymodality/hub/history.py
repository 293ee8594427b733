"""Recipe, losses and results that a Trainer and `anymodality evaluate` left beside a checkpoint."""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from anymodality.plain.files import read_json

from ..utils.hub import is_hub_id


_ROWS = 8  # of losses in a card


def read_history(folder: Path) -> dict[str, Any] | None:
    """Facts of the newest `trainer_state.json` in the folder or its `checkpoint-*`; None if there is none.

    Returns:
        `recipe`, what was set, by name; `losses`, (step, training loss or None, evaluation loss or None), some of them,
        evenly spread; `curve`, the training losses as a line of eight heights, "█▅▃▂▁".
    """
    states = [*folder.glob("trainer_state.json"), *folder.glob("checkpoint-*/trainer_state.json")]
    if not states:
        return None
    state = max(map(read_json, states), key=lambda one: one["global_step"])
    steps: dict[int, dict[str, float]] = {}
    for entry in state.get("log_history", []):
        known = {key: entry[key] for key in ("loss", "eval_loss", "learning_rate") if entry.get(key) is not None}
        steps.setdefault(entry.get("step", 0), {}).update(known)
    logged = [(step, one.get("loss"), one.get("eval_loss")) for step, one in sorted(steps.items())]
    logged = [row for row in logged if row[1:] != (None, None)]
    chosen = sorted({round(i * (len(logged) - 1) / (_ROWS - 1)) for i in range(_ROWS)}) if logged else []
    rates = [one["learning_rate"] for one in steps.values() if "learning_rate" in one]
    recipe = {
        "steps": state["global_step"],
        "epochs": None if state.get("epoch") is None else round(state["epoch"], 2),
        "batch size per device": state.get("train_batch_size"),
        "highest learning rate": max(rates) if rates else None,
        "tokens seen": state.get("num_input_tokens_seen") or None,
        "best metric": state.get("best_metric"),
    }
    losses = [loss for _, loss, _ in logged if loss is not None]
    return {
        "recipe": {name: value for name, value in recipe.items() if value is not None},
        "losses": [logged[i] for i in chosen],
        "curve": sparkline(losses),
    }


def sparkline(values: list[float], width: int = 48) -> str:
    """Values as heights, averaged down to `width` of them; empty for fewer than two."""
    if len(values) < 2:
        return ""
    edges = [round(i * len(values) / min(width, len(values))) for i in range(min(width, len(values)) + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    low, high = min(means), max(means)
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low or 1))] for value in means)


def data_name(data: str) -> str:
    """The name of the data that results were measured on: a Hub id, or the last part of a path."""
    return data if is_hub_id(data) else Path(data).name


def read_results(file: Path) -> list[EvalResult]:
    """Results of `anymodality evaluate`, one entry per task and metric. Empty without a file.

    Raises:
        ValueError: the file is something else.
    """
    if not file.is_file():
        return []
    try:
        tasks = read_json(file)["tasks"]
        return [
            EvalResult(
                task_type=task.get("task", name),
                task_name=name,
                dataset_type=data_name(str(task.get("data", name)).split(" ")[0]),
                dataset_name=f"{name}, {task['samples']:,} samples",
                metric_type=metric,
                metric_value=round(value, 4),
            )
            for name, task in tasks.items()
            for metric, value in task["metrics"].items()
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{file} is not what `anymodality evaluate` writes ({error!r}).") from error
