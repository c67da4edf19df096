"""The tensors of a model's files compared with the model's parameters, before any weight is read.

transformers does the work: it matches names, converts and ties, here on tensors without data. Its
loader would fill missing parameters with random values and only write a report to the log.
"""

from typing import Any

import torch

from empo2_trainer.model_dir import (
    UNKNOWN_MODEL,
    LoadError,
    Stored,
    model_config,
    stored_tensors,
)


def check_weights(directory: str) -> None:
    """Refuse a model whose files lack weights, or have weights of other shapes."""
    info = _report(skeleton(directory), stored_tensors(directory))
    again = "download the folder again, with all files"
    if info.conversion_errors:
        name = min(info.conversion_errors)
        text = f"model {directory}: {name} cannot be made of the tensors in its files"
        raise LoadError(text, f"some of them are missing or have another shape: {again}")
    if info.mismatched_keys:
        name, found, wanted = min(info.mismatched_keys, key=lambda item: str(item[0]))
        raise LoadError(
            f"model {directory}: {name} is {list(found)} in its files, and {list(wanted)} by its "
            "config.json",
            f"the two belong to different models, or tensors are missing: {again}",
        )
    if info.missing_keys:
        name, count = min(info.missing_keys), len(info.missing_keys)
        more = f" and {count - 1} more" if count > 1 else ""
        verb = "are" if count > 1 else "is"
        raise LoadError(
            f"model {directory}: {name}{more} {verb} missing in its files",
            f"training would begin with random values there: {again}",
        )


def skeleton(directory: str) -> Any:
    """The model with parameters that have a shape, but no data."""
    from transformers import AutoModelForCausalLM

    config = model_config(directory)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as e:  # sizes that do not fit together
        raise LoadError(f"model {directory}: {e}", UNKNOWN_MODEL) from e


def stored_names(model: Any, tensors: dict[str, Stored]) -> dict[str, str]:
    """The names of tensors in files by the names of the parameters that they become. Tensors that
    are stacked or split when they are loaded have none."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    parameters, prefix = model.state_dict(), model.base_model_prefix
    found = {}
    for name in tensors:
        target, converter = rename_source_key(name, renamings, converters, prefix, parameters)
        if target not in parameters and name in parameters:  # as transformers does it
            target, converter = rename_source_key(name, [], [], prefix, parameters)
        if target in parameters and converter is None:
            found[target] = name
    return found


def _report(model: Any, tensors: dict[str, Stored]) -> Any:
    """What transformers reports after it loaded these tensors."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    empty = {name: torch.empty(shape, device="meta") for name, (_, shape) in tensors.items()}
    config = LoadStateDictConfig(
        device_map={"": "meta"},
        dtype=torch.float32,
        ignore_mismatched_sizes=True,
        weight_mapping=get_model_conversion_mapping(model),
    )
    info, _ = convert_and_load_state_dict_in_model(model, empty, config)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    model._adjust_missing_and_unexpected_keys(info)
    return info
