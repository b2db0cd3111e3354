"""Adding tokens to the vocabulary: tokenizer and embedding table grow together, and nothing else changes.

    grown = add_tokens(encoder, ["myocarditis", "angioplasty"])
    train(grown, ...)                                              # learns their embeddings

A new row starts as the mean of the embeddings of the pieces that the tokenizer splits the word into now, so training starts
close to the old model. (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models", takes the mean of
all rows.) Every old token keeps its id and its row, so a text without a new token gets the same ids and the same embedding to
the bit. Left out: removing tokens, new special tokens.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from minisbert.arguments import check_text
from minisbert.checkpoint.convert import flatten, nest
from minisbert.errors import InputError, MinisbertError, short_repr
from minisbert.inference.engines import need_jax
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.text.tokenizer import Tokenizer

logger = logging.getLogger("minisbert")

_TABLE = "encoder.token_embedding.embedding"
# Files with the old vocabulary; tokenizer.json alone describes the new one.
_SETTINGS = "tokenizer_config.json"
_STALE_FILES = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")


def add_tokens(encoder: SentenceEncoder, tokens: Sequence[str], *, whole_words: bool = True) -> SentenceEncoder:
    """A model that reads each of `tokens` as one token. `encoder` does not change.

    Args:
        encoder: in float32.
        tokens: words, or markers such as "[E1]"; lower-cased if the model does that.
        whole_words: match a token only where no letter or digit is next to it; False matches it anywhere.

    Returns:
        the model with the new tokens and the settings of `encoder`. A space before a token belongs to it.

    Raises:
        InputError: an item that is not text, is empty, occurs twice, is already in the vocabulary, or contains a special
            token; or the model has no embedding table.

    Example:
        >>> encoder = SentenceEncoder.load("weights/tiny-bert")
        >>> grown = add_tokens(encoder, ["guitarists"])
        >>> [len(model.tokenizer.tokenize(["guitarists"], max_length=9).ids[0]) for model in (encoder, grown)]
        [7, 3]
    """
    if not isinstance(encoder, SentenceEncoder) or encoder.compute_dtype != "float32":
        raise InputError(f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder loaded in float32.")
    need_jax(encoder, "add tokens to it")
    if isinstance(tokens, str) or not isinstance(tokens, Sequence) or not tokens:
        raise InputError(f"tokens is {short_repr(tokens)}. Expected a list with at least one text.")
    flat = flatten(encoder.pretrained.params)
    if _TABLE not in flat:
        raise InputError(
            f"{encoder.model_config.model_type} has no {_TABLE}. Expected a model with a table of token embeddings."
        )
    pieces = _pieces(encoder, tokens)
    tokenizer, content, ids = _grown_tokenizer(encoder, list(pieces), whole_words)

    table_VD = flat[_TABLE]
    rows_MD = jnp.stack([table_VD[jnp.asarray(row)].mean(axis=0) for row in pieces.values()])
    missing = max(ids) + 1 - len(table_VD)  # a table may have more rows than the tokenizer has tokens
    if missing > 0:
        table_VD = jnp.concatenate([table_VD, jnp.zeros((missing, table_VD.shape[1]), table_VD.dtype)])
    flat[_TABLE] = table_VD.at[jnp.asarray(ids)].set(rows_MD)
    return _with(encoder, nest(flat), tokenizer, content, len(table_VD))


def _pieces(encoder: SentenceEncoder, tokens: Sequence[str]) -> dict[str, list[int]]:
    """Maps each token, as the tokenizer will match it, to the ids of the pieces it is split into now."""
    backend = encoder.tokenizer.backend
    special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    vocabulary = backend.get_vocab(with_added_tokens=True)
    unknown = _unknown(backend)
    found: dict[str, list[int]] = {}
    names: dict[str, str] = {}  # normalized -> as given
    for row, token in enumerate(tokens):
        place = f"tokens[{row}]"
        check_text(place, token)
        if not token.strip() or token != token.strip():
            raise InputError(f"{place} is {token!r}. Expected text without spaces around it; remove them.")
        clash = next((one for one in special if one in token), None)
        if clash is not None and clash != token:
            raise InputError(
                f"{place} is {token!r}, which contains the special token {clash!r}. Expected a token without it; rename it."
            )
        text = token.lower() if encoder.pretrained.folder.do_lower_case else token
        seen = backend.normalizer.normalize_str(text) if backend.normalizer else text
        if not seen.strip():
            raise InputError(
                f"{place} is {token!r}, of which the model's normalizer leaves nothing. Expected visible text; leave it out."
            )
        if seen in names:
            raise InputError(
                f"{place} is {token!r}, which this model reads as {names[seen]!r}. Expected each token once; leave one out."
            )
        ids = backend.encode(f" {text}", add_special_tokens=False).ids
        known = next((word for word in (token, text, seen) if word in vocabulary), None)
        if known is not None or (len(ids) == 1 and ids != unknown):
            number = ids[0] if known is None else vocabulary[known]
            raise InputError(
                f"{place} is {token!r}, which is already in the vocabulary as id {number}. Expected a word that is split "
                "into pieces; leave it out."
            )
        names[seen], found[text] = token, ids
    return found


def _unknown(backend: Any) -> list[int]:
    """The id of the unknown token, if there is one. A character that is read as unknown may become a token."""
    model = json.loads(backend.model.__getstate__())
    number = model["unk_id"] if "unk_id" in model else backend.token_to_id(model.get("unk_token") or "")
    return [] if number is None else [number]


def _grown_tokenizer(
    encoder: SentenceEncoder, tokens: Sequence[str], whole_words: bool
) -> tuple[Tokenizer, bytes, list[int]]:
    """The tokenizer with the new tokens, its tokenizer.json, and their ids."""
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend

    files, before = encoder.pretrained.folder.tokenizer_files, encoder.tokenizer
    # Only the tokens change; truncation and padding remain as in the file.
    source = json.loads(before.backend.to_str())
    file = json.loads(files.get("tokenizer.json", b"{}"))
    source |= {key: file[key] for key in ("truncation", "padding") if key in file}
    backend = Backend.from_str(json.dumps(source))
    old = backend.get_vocab(with_added_tokens=True)
    backend.add_tokens([AddedToken(token, single_word=whole_words, lstrip=True, normalized=True) for token in tokens])
    content = backend.to_str(pretty=True).encode()
    folder = encoder.pretrained.folder
    tokenizer = Tokenizer(
        Backend.from_str(content.decode()),
        before.where,
        lower_case=folder.do_lower_case,
        special_tokens=before.needs_tokens,
        keep_end=before.keep_end,
        token_types=before.token_types,
    )
    tokenizer.backend.encode_special_tokens = before.backend.encode_special_tokens
    new = backend.get_vocab(with_added_tokens=True)
    ids = [new[token] for token in tokens]
    taken = {word: new[word] for word in old} != old or set(ids) & set(old.values()) or len(set(ids)) < len(ids)
    unseen = [
        token
        for token, number in zip(tokens, ids, strict=True)
        if number not in tokenizer.backend.encode(f"a {token} a", add_special_tokens=False).ids
    ]
    if taken or unseen:
        raise MinisbertError(
            f"{before.where}: the new tokens {short_repr(tokens)} got the ids {ids}. Expected new ids, and each token "
            f"to be found in a text (these are not: {unseen}). Please report this model."
        )
    return tokenizer, content, ids


def _with(encoder: SentenceEncoder, params: Any, tokenizer: Tokenizer, content: bytes, rows: int) -> SentenceEncoder:
    """The encoder with the new parts and its own settings."""
    model = encoder.pretrained
    files = {name: file for name, file in model.folder.tokenizer_files.items() if name not in _STALE_FILES}
    files["tokenizer.json"] = content
    settings = json.loads(files.get(_SETTINGS, b"{}"))
    if "added_tokens_decoder" in settings:  # then transformers drops tokens that this list lacks
        tokens = json.loads(content)["added_tokens"]
        settings["added_tokens_decoder"] = {str(token.pop("id")): token for token in tokens}
        files[_SETTINGS] = (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()
    old_rows = model.model_config.encoder.vocab_size
    passthrough = model.original.passthrough
    # The language model's head over the old vocabulary now has the wrong size; minisbert does not compute it.
    heads = sorted(name for name, array in passthrough.items() if rows != old_rows and old_rows in array.shape)
    if heads:
        logger.warning(f"dropped tensors of the old vocabulary: {', '.join(heads)}")
    folder = replace(
        model.folder,
        config={**model.folder.config, "vocab_size": rows},
        tokenizer_files=files,
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name=encoder.similarity_fn_name,
        truncate_dim=encoder.truncate_dim,
        max_seq_length=encoder.max_seq_length,
        is_tokenizers_limit=False,
    )
    grown = replace(
        model,
        folder=folder,
        model_config=replace(model.model_config, encoder=replace(model.model_config.encoder, vocab_size=rows)),
        params=params,
        tokenizer=tokenizer,
        original=replace(
            model.original, passthrough={name: passthrough[name] for name in passthrough if name not in heads}
        ),
    )
    return SentenceEncoder(grown, token_budget=encoder.shapes.token_budget)
