"""Finds the key that a user likely meant by an unknown key."""

from __future__ import annotations

from typing import Any

from ftray.near import did_you_mean, nearest
from ftray.spec.paths import Model, paths, section_of
from ftray.tasks import TASKS

_SHOWN = 8

_WORDS: dict[str, str] = {
    "name": "run_name model_out project experiment experiment_name",
    "seed": "seeds random_seed random_state rng_seed",
    "storage": "output_dir output out_dir save_dir storage_path root logging_dir",
    "model.name_or_path": "model model_name model_id model_path base base_model pretrained path "
    "pretrained_model model_name_or_path backbone checkpoint_path",
    "model.revision": "commit branch tag model_revision",
    "model.trust_remote_code": "remote_code trust",
    "data.train": "dataset data train_file train_data data_path train_path dataset_path files",
    "data.validation": "val valid dev eval validation_split val_split validation_file eval_file",
    "data.test": "test_split test_file holdout",
    "data.columns": "fields features column_names",
    "data.max_length": "max_len max_seq_len max_seq_length seq_len seq_length sequence_length "
    "cutoff_len context_length max_tokens_per_row model_max_length block_size",
    "data.on_bad_row": "bad_rows on_error errors",
    "train.epochs": "epoch num_epochs n_epochs num_train_epochs max_epochs nepochs",
    "train.steps_per_epoch": "eval_steps eval_every eval_interval max_steps steps "
    "val_check_interval evaluation_steps total_steps",
    "train.batch_size": "bs batch batchsize train_batch_size global_batch_size total_batch_size",
    "train.micro_batch_size": "micro_bs micro_batch per_device_train_batch_size "
    "per_device_batch_size gradient_accumulation_steps grad_accum gradient_accumulation "
    "train_micro_batch_size_per_gpu accumulate_grad_batches",
    "train.learning_rate": "lr rate learningrate base_lr max_lr peak_lr eta step_size",
    "train.weight_decay": "wd decay l2 regularization adam_weight_decay",
    "train.schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule decay_type",
    "train.warmup": "warmup_ratio warmup_steps warm_up num_warmup_steps",
    "train.clip": "grad_clip max_grad_norm gradient_clipping clip_grad gradient_clip_val "
    "clip_norm max_norm",
    "train.gradient_checkpointing": "activation_checkpointing checkpoint_activations grad_ckpt",
    "train.precision": "fp16 bf16 dtype torch_dtype mixed_precision amp half",
    "train.unfreeze": "freeze frozen layers n_layers num_layers trainable_layers freeze_layers "
    "unfreeze_layers blocks depth",
    "train.lora": "peft adapter qlora",
    "train.lora.rank": "lora_r lora_rank r",
    "train.lora.alpha": "lora_alpha",
    "train.lora.dropout": "lora_dropout",
    "train.lora.targets": "target_modules lora_target_modules lora_target",
    "train.deepspeed": "ds deepspeed_config zero ds_config",
    "train.deepspeed.stage": "zero_stage stage_zero zero_optimization",
    "train.deepspeed.offload": "cpu_offload offload_optimizer offload_param",
    "train.label_smoothing": "smoothing label_smoothing_factor",
    "train.layer_decay": "llrd layerwise_decay lr_decay layer_lr_decay",
    "train.average": "swa soup model_soup greedy_soup ema weight_averaging averaging",
    "train.calibrate": "calibration temperature_scaling temperature calibrated",
    "train.balance": "class_weights class_weight balanced sampling weighted",
    "train.metric": "metric_for_best_model monitor objective best_metric",
    "train.early_stopping": "early_stop earlystopping",
    "train.early_stopping.patience": "early_stopping_patience",
    "train.checkpoint.every_steps": "save_steps checkpoint_steps save_every",
    "train.checkpoint.keep": "save_total_limit num_to_keep keep_checkpoints",
    "scale.workers": "num_workers n_workers world_size nproc num_processes nodes gpus num_gpus "
    "n_gpus devices",
    "scale.gpus_per_worker": "gpu use_gpu",
    "scale.cpus_per_worker": "cpu cpus num_cpus cores threads",
    "scale.max_failures": "retries max_retries",
    "tune.trials": "num_trials n_trials num_samples max_trials samples",
    "tune.space": "search_space param_space params parameters hyperparameters grid",
    "tune.searcher": "sampler search_alg algorithm search method",
    "tune.scheduler": "pruner",
    "tune.budget": "time_budget timeout time_limit max_time",
    "tune.refit": "retrain",
    "export.golden": "golden_answers golden_rows",
    "serve.batch.max_size": "max_batch_size",
    "serve.batch.wait_ms": "max_wait batch_wait_timeout_s max_latency wait",
    "serve.replicas": "num_replicas n_replicas autoscaling",
    "serve.max_tokens": "max_new_tokens max_output_tokens",
    "serve.max_context": "max_model_len max_seq_len n_ctx context_window max_total_tokens",
    "serve.cache_tokens": "max_num_batched_tokens kv_cache kv_cache_tokens cache_size",
    "serve.api_keys": "api_key keys key token tokens auth",
}

_COLUMNS = {column for task in TASKS.values() for column in task.info.columns}
_MEANT = [
    *_WORDS.items(),
    *((f"data.columns.{n}", words) for t in TASKS.values() for n, words in t.info.synonyms.items()),
]
# Of two keys with a name in common, the first is meant; a task's own column means itself.
SYNONYMS: dict[str, str] = {
    word: key for key, words in reversed(_MEANT) for word in words.split() if word not in _COLUMNS
}
"""A name that other tools or people use for a key -> the key."""


def known_key(key: str, model: Model, without: tuple[str, ...] = ()) -> str | None:
    """Return the dotted key below `model` that the unknown `key` was likely meant to be; None where
    no key is similar. without: ends of keys that are of no use in this spec."""
    where, section = section_of(model, key)
    within = [f"{where}.{name}" if where else name for name in section.model_fields]
    within = [path for path in within if not path.endswith(without)]
    every = [*within, *(path for path in paths(model) if not path.endswith(without))]
    above, _, name = key.rpartition(".")
    last = name.replace("-", "_").casefold()
    meant = SYNONYMS.get(last, "")
    return (
        next((path for path in within if _last(path).startswith(f"{last}_")), None)
        or next((path for path in within if _last(path) == _last(meant)), None)
        or (meant if meant in every else None)
        or next((path for path in every if _last(path) == last), None)
        or _nearest(last, within)
        or _misspelt_synonym(last, within)
        or (nearest(key, every) if above != where else None)  # the section may be misspelt, too
        or _nearest(last, every)
    )


def advice(key: str, model: Model, without: tuple[str, ...] = ()) -> str:
    """Name the key likely meant by an unknown key, else some keys of its section. without: ends of
    keys to name only where no other is similar."""
    meant = known_key(key, model, without) or known_key(key, model)
    return did_you_mean(meant, keys_of(section_of(model, key)[1]))


def unused_columns(task: Any) -> tuple[str, ...]:
    """Return the keys of columns that the rows of a task do not have. task: as the spec names it;
    none where the spec names no task."""
    columns = TASKS[task].info.columns if isinstance(task, str) and task in TASKS else _COLUMNS
    return tuple(f"data.columns.{column}" for column in _COLUMNS.difference(columns))


def keys_of(section: Model) -> str:
    """List some of a section's keys in a sentence."""
    names = list(section.model_fields)
    more = len(names) - _SHOWN
    rest = f" and {more} more (see `ftray schema`)" if more > 0 else ""
    return f"Known keys: {', '.join(names[:_SHOWN])}{rest}."


def _nearest(word: str, keys: list[str]) -> str | None:
    """Return the first dotted key whose last word `word` is or misspells; None without one."""
    close = nearest(word, map(_last, keys))
    return next((key for key in keys if _last(key) == close), None)


def _misspelt_synonym(word: str, keys: list[str]) -> str | None:
    """Return the one of `keys` whose synonym `word` misspells; None without one."""
    return SYNONYMS.get(nearest(word, (w for w, key in SYNONYMS.items() if key in keys)) or "")


def _last(key: str) -> str:
    return key.rpartition(".")[2]
