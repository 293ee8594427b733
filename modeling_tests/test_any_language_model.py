"""Every text decoder that `AutoModelForCausalLM` knows, as the language model of a composite.

What is known to fail is checked too: a listed failure that is gone fails the test.
"""

import pytest

from modeling_tests import tiny
from modeling_tests.language_model_cases import (
    CHECKS,
    KNOWN,
    OF_THE_LANGUAGE_MODEL,
    REFUSED,
    WITH_EMBEDDINGS,
    Case,
    run_checks,
)
from modeling_tests.tiny_causal_lms import causal_lm_types


@pytest.mark.parametrize("model_type", tiny.swept([name for name in causal_lm_types() if name not in REFUSED]))
def test_any_language_model(model_type, tmp_path):
    case, failures = run_checks(model_type, tmp_path)
    known = KNOWN.get(model_type, {})
    for name in failures.keys() - known.keys():
        raise failures[name]
    assert not known.keys() - failures.keys(), "passes now: take it out of KNOWN"
    for name in known.keys() & set(OF_THE_LANGUAGE_MODEL) - {WITH_EMBEDDINGS.get(model_type)}:
        with pytest.raises(AssertionError):
            CHECKS[name](Case(model_type, tmp_path, spare_tokens=8), alone=True)
    if known:
        pytest.xfail("; ".join(f"{name}: {reason}" for name, reason in known.items()))


@pytest.mark.parametrize("model_type", REFUSED)
def test_language_models_that_take_no_media_are_refused(model_type, tmp_path):
    with pytest.raises(ValueError, match="cannot read media"):
        Case(model_type, tmp_path)
