"""What each key of a model folder's settings does here: applied, harmless, or refused.

    config.json                            CONFIG: what transformers reads of any encoder; a family reads its own keys besides
    sentence_bert_config.json              LENGTH_FILE, and ARGUMENTS for the objects of arguments in it
    config_sentence_transformers.json      MODEL_FILE
    modules.json                           MODULE
    adapter_config.json                    ADAPTER
    tokenizer_config.json                  text/tokenizer_config.py

The effect of a key is "applied", "harmless" (changes no embedding), "refused" (asks for what is not computed; null, false and
empty values do not), or a tuple of the values that are harmless. A key that is in no table is refused, except in config.json,
where transformers ignores it too.
"""

from typing import Any

from minisbert import limits

APPLIED, HARMLESS, REFUSED = "applied", "harmless", "refused"
Effect = str | tuple[Any, ...]

CONFIG: dict[str, Effect] = {
    **dict.fromkeys(("model_type", "vocab_size", "pad_token_id", "position_embedding_type"), APPLIED),
    **dict.fromkeys(("is_decoder", "add_cross_attention", "auto_map", "quantization_config", "pruned_heads"), REFUSED),
    **dict.fromkeys(("is_encoder_decoder", "cross_attention_hidden_size", "tie_encoder_decoder"), HARMLESS),
    # How transformers reports and stores; every product here is float32 or what the caller asks for.
    **dict.fromkeys(("torch_dtype", "dtype", "transformers_version", "_name_or_path", "name_or_path"), HARMLESS),
    **dict.fromkeys(("architectures", "use_cache", "output_attentions", "output_hidden_states"), HARMLESS),
    **dict.fromkeys(("_attn_implementation", "attn_implementation", "_attn_implementation_autoset"), HARMLESS),
    **dict.fromkeys(
        ("gradient_checkpointing", "chunk_size_feed_forward", "tie_word_embeddings", "torchscript"), HARMLESS
    ),
    # Tokens are the tokenizer's.
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id"), HARMLESS),
    **dict.fromkeys(("tokenizer_class", "prefix", "decoder_start_token_id"), HARMLESS),
    # Heads that a sentence embedding does not have.
    **dict.fromkeys(("num_labels", "id2label", "label2id", "problem_type", "classifier_dropout"), HARMLESS),
    **dict.fromkeys(
        ("classifier_dropout_prob", "classifier_pooling", "classifier_bias", "classifier_activation"), HARMLESS
    ),
    **dict.fromkeys(("seq_classif_dropout", "qa_dropout", "decoder_bias", "sparse_prediction"), HARMLESS),
    **dict.fromkeys(("sparse_pred_ignore_index", "finetuning_task", "task_specific_params"), HARMLESS),
    **dict.fromkeys(("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_type"), HARMLESS),
    **dict.fromkeys(("pooler_size_per_head", "directionality", "sentence_transformers", "return_dict"), HARMLESS),
    # How new weights would be drawn, and settings of one attention kernel.
    **dict.fromkeys(("initializer_cutoff_factor", "deterministic_flash_attn", "reference_compile"), HARMLESS),
    **dict.fromkeys(("repad_logits_with_grad", "gradient_checkpointing_kwargs", "adapters"), HARMLESS),
    # Kernels and parallel training of nomic's and GTE's remote code; what is left of GPT-2's settings; T5's decoder.
    **dict.fromkeys(
        ("use_flash_attn", "fused_bias_fc", "fused_dropout_add_ln", "use_xentropy", "dense_seq_output"), HARMLESS
    ),
    **dict.fromkeys(("unpad_inputs", "use_memory_efficient_attention", "pad_vocab_size_multiple"), HARMLESS),
    **dict.fromkeys(
        ("parallel_block_tied_norm", "reorder_and_upcast_attn", "embd_pdrop", "logn_attention_clip1"), HARMLESS
    ),
    **dict.fromkeys(("summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout"), HARMLESS),
    **dict.fromkeys(("summary_proj_to_labels", "num_decoder_layers", "initializer_factor", "output_past"), HARMLESS),
    **dict.fromkeys(("legacy", "pooler_hidden_size"), HARMLESS),
}
# The bounds of the sizes and rates in any family's config.json.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), (1, limits.ROWS)),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embedding_size", "num_attention_heads"), (1, limits.WIDTH)),
    **dict.fromkeys(("dim", "hidden_dim", "n_heads"), (1, limits.WIDTH)),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), (1, limits.LAYERS)),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"), (0.0, 1.0)),
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), (0.0, 1.0)),
    **dict.fromkeys(("layer_norm_eps", "norm_eps", "rms_norm_eps"), (1e-20, 0.1)),
    "type_vocab_size": (1, limits.SEGMENTS),
    "local_attention": (0, limits.ROWS),
    "initializer_range": (0.0, 10.0),
}
_PARTS = ("model_args", "tokenizer_args", "config_args", "model_kwargs", "processor_kwargs", "config_kwargs")
LENGTH_FILE: dict[str, Effect] = {
    **dict.fromkeys(("max_seq_length", "do_lower_case", "transformer_task", "modality_config"), APPLIED),
    **dict.fromkeys(("module_output_name", *_PARTS), APPLIED),
    **dict.fromkeys(("processing_kwargs", "query_length", "document_length", "query_expansion"), REFUSED),
    "unpad_inputs": HARMLESS,
}
# Where to fetch from, and trust_remote_code, which sentence-transformers takes out of the file: no code of a folder is run.
_FETCH: dict[str, Effect] = {
    **dict.fromkeys(("trust_remote_code", "cache_dir", "token", "use_auth_token", "local_files_only"), HARMLESS),
    **dict.fromkeys(("force_download", "code_revision"), HARMLESS),
    "revision": ("main", None),
    "subfolder": ("", None),
}
_MODEL_ARGUMENTS = _FETCH | {
    "attn_implementation": ("eager", "sdpa", None),
    **dict.fromkeys(("torch_dtype", "dtype"), ("float32", "auto", None)),
    **dict.fromkeys(("add_pooling_layer", "low_cpu_mem_usage", "use_safetensors"), (True, False, None)),
    "device_map": ("cpu", "auto", None),
    "output_attentions": (False,),
}
_TOKENIZER_ARGUMENTS = _FETCH | {
    "model_max_length": APPLIED,
    "use_fast": (True, False, None),
    **dict.fromkeys(("padding_side", "truncation_side"), ("right",)),
    "clean_up_tokenization_spaces": (True, False, None),
}
_CONFIG_ARGUMENTS = _FETCH | {"attn_implementation": ("eager", "sdpa", None), "use_cache": (True, False, None)}
ARGUMENTS = {
    **dict.fromkeys(("model_args", "model_kwargs"), _MODEL_ARGUMENTS),
    **dict.fromkeys(("tokenizer_args", "processor_kwargs"), _TOKENIZER_ARGUMENTS),
    **dict.fromkeys(("config_args", "config_kwargs"), _CONFIG_ARGUMENTS),
}
MODEL_FILE: dict[str, Effect] = {
    **dict.fromkeys(("prompts", "default_prompt_name", "similarity_fn_name", "truncate_dim", "model_type"), APPLIED),
    "__version__": HARMLESS,
    "requirements": REFUSED,  # what another library requires cannot be checked here
}
MODULE: dict[str, Effect] = {
    **dict.fromkeys(("idx", "path", "type"), APPLIED),
    # The name of a module, and the keywords of `encode` that sentence-transformers hands to it.
    **dict.fromkeys(("name", "kwargs"), HARMLESS),
}
# Of LoRA (Hu et al. 2021) as the peft library stores it.
ADAPTER: dict[str, Effect] = {
    **dict.fromkeys(("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"), APPLIED),
    **dict.fromkeys(("fan_in_fan_out", "base_model_name_or_path", "init_lora_weights"), APPLIED),
    "bias": ("none", None),
    "use_bdlora": (False, None),
    **dict.fromkeys(("use_dora", "modules_to_save", "layer_replication", "lora_bias", "use_qalora", "aLoRA"), REFUSED),
    **dict.fromkeys(("trainable_token_indices", "alora_invocation_tokens", "arrow_config", "megatron_config"), REFUSED),
    **dict.fromkeys(("target_parameters", "monteclora_config", "kasa_config", "loftq_config"), REFUSED),
    # What is adapted is what has tensors; how they were first drawn and trained changes nothing.
    **dict.fromkeys(("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"), HARMLESS),
    **dict.fromkeys(("lora_dropout", "inference_mode", "task_type", "revision"), HARMLESS),
    **dict.fromkeys(("auto_mapping", "peft_version", "eva_config", "corda_config"), HARMLESS),
    **dict.fromkeys(("lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config"), HARMLESS),
    **dict.fromkeys(("ensure_weight_tying", "velora_config"), HARMLESS),
}
