"""The tokenizer classes of transformers, as tables: the keys of their settings, their special tokens, how each is built."""

from minisbert.checkpoint.keys import APPLIED, HARMLESS, REFUSED, each

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FURTHER = ("additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens")
# Every key that transformers 5 reads, with its effect (checkpoint/keys.py); "refused" would change token ids. It ignores the
# others, and so does this file; `*_token` is a further special token.
KEYS = {
    **dict.fromkeys((*SPECIAL_TOKENS, *FURTHER), APPLIED),
    **each(APPLIED, "tokenizer_class added_tokens_decoder truncation_side padding_side model_input_names extra_ids"),
    **each(APPLIED, "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space split_by_punct"),
    **each(APPLIED, "keep_accents split_special_tokens model_max_length max_len"),
    **each(APPLIED, "add_bos_token add_eos_token"),  # where there is no tokenizer.json
    **each(HARMLESS, "trim_offsets errors clean_up_tokenization_spaces verbose name_or_path"),
    **each(HARMLESS, "backend is_local local_files_only chat_template response_template"),
    **each(HARMLESS, "response_schema processor_class auto_map files_loaded pad_token_type_id stride max_length"),
    "chat_control_tokens": HARMLESS,
    **each(HARMLESS, "truncation_strategy pad_to_multiple_of vocab_file merges_file tokenizer_file"),
    **each(HARMLESS, "special_tokens_map_file never_split do_basic_tokenize use_fast"),
    **each(REFUSED, "vocab merges init_inputs post_processor tokenizer_object gguf_file fast_tokenizer_files"),
    **each(REFUSED, "unk_id tokenizer_truncation tokenizer_padding _json_truncation _json_padding"),
    **each(REFUSED, "fix_mistral_regex _spm_precompiled_charsmap"),
}
REFUSED_KEYS = tuple(key for key, effect in KEYS.items() if effect == REFUSED)


_ROBERTA = dict(zip(SPECIAL_TOKENS, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True))
_ALBERT = _ROBERTA | {"bos_token": "[CLS]", "eos_token": "[SEP]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
_BERT = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}
# Class -> the kind of tokenizers.models that it builds, and its special tokens.
BUILT: dict[str, tuple[str, dict[str, str]]] = {
    "BertTokenizer": ("WordPiece", _BERT),
    "MPNetTokenizer": ("WordPiece", _ROBERTA | {"unk_token": "[UNK]"}),
    "RobertaTokenizer": ("BPE", _ROBERTA),
    "XLMRobertaTokenizer": ("Unigram", _ROBERTA),
    "AlbertTokenizer": ("Unigram", _ALBERT | {"mask_token": "[MASK]"}),
    "CamembertTokenizer": ("Unigram", _ROBERTA),
    "DebertaV2Tokenizer": ("Unigram", _BERT | {"bos_token": "[CLS]", "eos_token": "[SEP]"}),
    "T5Tokenizer": ("Unigram", {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}),
    "Qwen2Tokenizer": ("BPE", dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>")),
}
# How Qwen2Tokenizer splits a text before byte-pair encoding: endings, words, single digits, signs, spaces.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
ALIASES = {
    **each("Bert", "DistilBert Electra MobileBert ConvBert LayoutLM SqueezeBert Lxmert"),
    **each("Bert", "DPRReader DPRContextEncoder DPRQuestionEncoder"),
    **each("Roberta", "Longformer Bart LED"),
}
# Classes that transformers builds in other ways, from which tokenizer.json differs in what tokenizer_file.py checks, at most.
READ_FROM_FILE = {
    **each("BPE", "Qwen3_5 GPT2 Llama Gemma GPTNeoX Deberta Herbert CLIP"),
    **each("Unigram", "XLNet MBart RemBert BigBird Pegasus FNet"),
    **each("WordPiece", "Funnel Splinter RoFormer"),
}
# The class where no file names one.
BY_MODEL_TYPE = {
    **each("BertTokenizer", "bert distilbert electra ernie nomic_bert"),
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    **each("XLMRobertaTokenizer", "xlm-roberta gte jina_embeddings_v3"),
    "albert": "AlbertTokenizer",
    "camembert": "CamembertTokenizer",
    **each("", "modernbert mistral"),  # tokenizer.json, whatever a file names
    **each("Qwen2Tokenizer", "qwen2 qwen3"),
    "gemma3_text": "GemmaTokenizer",
    **each("T5Tokenizer", "t5 mt5"),
    "deberta-v2": "DebertaV2Tokenizer",
}
# The family whose class counts, whatever a file names.
ALWAYS_ITS_OWN = ("qwen2",)
# Classes that transformers runs in Python; they ignore tokenizer.json.
IN_PYTHON = set(
    "BertJapanese Phobert Bertweet Esm Canine Flaubert XLM BertTokenizerLegacy RoCBert Tapas Luke ProphetNet FSMT BioGpt ByT5 "
    "MyT5 Perceiver CTRL Bartpho".split()
)
# Classes that tell the model which tokens are the second text's, unless `model_input_names` says otherwise.
TOKEN_TYPES = "Bert Electra MobileBert ConvBert Deberta DebertaV2 XLNet Funnel BigBird FNet".split()
# Families whose positions count from the start of the row, padding included.
COUNT_PADDING = "bert distilbert albert electra ernie roberta xlm-roberta camembert mpnet".split()
