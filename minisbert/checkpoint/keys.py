"""What each key of a model folder's settings does here: applied, harmless, or refused.

    config.json                            CONFIG: what transformers reads of any encoder; a family reads its own keys besides
    sentence_bert_config.json              LENGTH_FILE, and ARGUMENTS for the objects of arguments in it
    config_sentence_transformers.json      MODEL_FILE
    modules.json, adapter_config.json      MODULE, ADAPTER

The effect of a key is "applied", "harmless" (changes no embedding), "refused" (asks for what is not computed; null, false and
empty values do not), or a tuple of the values that are harmless. Other keys are refused, except in config.json.
"""

from typing import Any, TypeVar

from minisbert import limits

APPLIED, HARMLESS, REFUSED = "applied", "harmless", "refused"
Effect = str | tuple[Any, ...]
V = TypeVar("V")


def each(value: V, words: str) -> dict[str, V]:
    """The same value for each of the words."""
    return dict.fromkeys(words.split(), value)


CONFIG: dict[str, Effect] = {
    **each(APPLIED, "model_type vocab_size pad_token_id position_embedding_type"),
    **each(REFUSED, "is_decoder add_cross_attention auto_map quantization_config pruned_heads"),
    **each(HARMLESS, "is_encoder_decoder cross_attention_hidden_size tie_encoder_decoder"),
    # How transformers reports and stores; every product here is float32 or what the caller asks for.
    **each(HARMLESS, "torch_dtype dtype transformers_version _name_or_path name_or_path"),
    **each(APPLIED, "architectures"),  # kinds.py; the pooling where no file names one
    **each(HARMLESS, "use_cache chunk_size_feed_forward"),
    **each(HARMLESS, "output_attentions output_hidden_states _attn_implementation attn_implementation torchscript"),
    **each(HARMLESS, "_attn_implementation_autoset gradient_checkpointing tie_word_embeddings"),
    # Tokens are the tokenizer's.
    **each(HARMLESS, "bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id decoder_start_token_id"),
    **each(HARMLESS, "tokenizer_class prefix"),
    # Heads that a sentence embedding does not have.
    **each(HARMLESS, "num_labels id2label label2id problem_type classifier_dropout classifier_dropout_prob"),
    **each(HARMLESS, "classifier_pooling classifier_bias classifier_activation seq_classif_dropout qa_dropout"),
    **each(HARMLESS, "decoder_bias sparse_prediction sparse_pred_ignore_index finetuning_task task_specific_params"),
    **each(HARMLESS, "pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head"),
    **each(HARMLESS, "pooler_type pooler_hidden_size directionality sentence_transformers return_dict"),
    # How new weights would be drawn, and settings of one attention kernel.
    **each(HARMLESS, "initializer_cutoff_factor deterministic_flash_attn reference_compile repad_logits_with_grad"),
    **each(HARMLESS, "gradient_checkpointing_kwargs adapters"),
    # Kernels and parallel training of nomic's and GTE's remote code; what is left of GPT-2's settings; T5's decoder.
    **each(HARMLESS, "use_flash_attn fused_bias_fc fused_dropout_add_ln use_xentropy dense_seq_output unpad_inputs"),
    **each(HARMLESS, "use_memory_efficient_attention pad_vocab_size_multiple parallel_block_tied_norm legacy"),
    **each(HARMLESS, "reorder_and_upcast_attn embd_pdrop logn_attention_clip1 summary_type summary_use_proj"),
    **each(HARMLESS, "summary_activation summary_first_dropout summary_proj_to_labels num_decoder_layers"),
    **each(HARMLESS, "initializer_factor output_past"),
}
# The bounds of a number wherever a file has it: whole numbers include both, others not the upper one.
BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("vocab_size", "max_position_embeddings"), (1, limits.ROWS)),
    **dict.fromkeys(("hidden_size", "intermediate_size", "embedding_size", "num_attention_heads"), (1, limits.WIDTH)),
    **dict.fromkeys(("dim", "hidden_dim", "n_heads", "num_key_value_heads"), (1, limits.WIDTH)),
    **dict.fromkeys(("out_features", "embedding_dimension", "truncate_dim", "r", "lora_rank"), (1, limits.WIDTH)),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), (1, limits.LAYERS)),
    **dict.fromkeys(("global_attn_every_n_layers", "sliding_window_pattern"), (1, limits.LAYERS)),
    **dict.fromkeys(("max_seq_length", "model_max_length", "max_len", "sliding_window"), (1, limits.ROWS)),
    **dict.fromkeys(("n_positions", "max_trained_positions"), (1, limits.ROWS)),
    **dict.fromkeys(("max_relative_positions", "position_buckets"), (-1, limits.ROWS)),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout"), (0.0, 1.0)),
    **dict.fromkeys(("embedding_dropout", "attention_dropout", "mlp_dropout"), (0.0, 1.0)),
    **dict.fromkeys(("layer_norm_eps", "norm_eps", "rms_norm_eps"), (1e-20, 0.1)),
    **dict.fromkeys(("type_vocab_size", "task_type_vocab_size"), (1, limits.SEGMENTS)),
    **dict.fromkeys(("local_attention", "max_window_layers"), (0, limits.ROWS)),
    "relative_attention_num_buckets": (4, limits.WIDTH),
    "extra_ids": (0, limits.ADDED_TOKENS),
    "query_pre_attn_scalar": (1e-3, 1e9),
    "lora_alpha": (-1e9, 1e9),
    "initializer_range": (0.0, 10.0),
}
LENGTH_FILE: dict[str, Effect] = {
    **each(APPLIED, "max_seq_length do_lower_case transformer_task modality_config module_output_name"),
    **each(APPLIED, "model_args tokenizer_args config_args model_kwargs processor_kwargs config_kwargs"),
    **each(REFUSED, "processing_kwargs query_length document_length query_expansion"),
    "unpad_inputs": HARMLESS,
}
# Where to fetch from, and trust_remote_code, which sentence-transformers takes out of the file: no code of a folder is run.
_FETCH: dict[str, Effect] = {
    **each(HARMLESS, "trust_remote_code cache_dir token use_auth_token local_files_only force_download"),
    "code_revision": HARMLESS,
    "revision": ("main", None),
    "subfolder": ("", None),
}
_MODEL_ARGUMENTS = _FETCH | {
    "attn_implementation": ("eager", "sdpa", None),
    **each(("float32", "auto", None), "torch_dtype dtype"),
    **each((True, False, None), "add_pooling_layer low_cpu_mem_usage use_safetensors"),
    "device_map": ("cpu", "auto", None),
    "output_attentions": (False,),
}
_TOKENIZER_ARGUMENTS = _FETCH | {
    "model_max_length": APPLIED,
    **each((True, False, None), "use_fast clean_up_tokenization_spaces"),
    **each(("right",), "padding_side truncation_side"),
}
_CONFIG_ARGUMENTS = _FETCH | {"attn_implementation": ("eager", "sdpa", None), "use_cache": (True, False, None)}
# The objects of arguments in the length file, each under its older and its newer name.
ARGUMENTS = {
    **dict.fromkeys(("model_args", "model_kwargs"), _MODEL_ARGUMENTS),
    **dict.fromkeys(("tokenizer_args", "processor_kwargs"), _TOKENIZER_ARGUMENTS),
    **dict.fromkeys(("config_args", "config_kwargs"), _CONFIG_ARGUMENTS),
}
MODEL_FILE: dict[str, Effect] = {
    **each(APPLIED, "prompts default_prompt_name similarity_fn_name truncate_dim model_type"),
    "__version__": HARMLESS,
    "requirements": REFUSED,  # what another library requires cannot be checked here
}
MODULE: dict[str, Effect] = {
    **each(APPLIED, "idx path type"),
    # The name of a module, and the keywords of `encode` that sentence-transformers hands to it.
    **each(HARMLESS, "name kwargs"),
}
# Of LoRA (Hu et al. 2021) as the peft library stores it.
ADAPTER: dict[str, Effect] = {
    **each(APPLIED, "peft_type r lora_alpha use_rslora rank_pattern alpha_pattern fan_in_fan_out init_lora_weights"),
    "base_model_name_or_path": APPLIED,
    "bias": ("none", None),
    "use_bdlora": (False, None),
    **each(REFUSED, "use_dora modules_to_save layer_replication lora_bias use_qalora aLoRA trainable_token_indices"),
    **each(REFUSED, "alora_invocation_tokens arrow_config megatron_config target_parameters monteclora_config"),
    **each(REFUSED, "kasa_config loftq_config"),
    # What is adapted is what has tensors; how they were first drawn and trained changes nothing.
    **each(HARMLESS, "target_modules exclude_modules layers_to_transform layers_pattern lora_dropout"),
    **each(HARMLESS, "inference_mode task_type revision auto_mapping peft_version eva_config corda_config"),
    **each(HARMLESS, "lora_ga_config megatron_core qalora_group_size runtime_config ensure_weight_tying"),
    "velora_config": HARMLESS,
}
