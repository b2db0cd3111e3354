"""New words for a model that knows them only as pieces: tokenizer and embedding table grow together, nothing else changes.

    grown = add_tokens(encoder, ["myocarditis", "angioplasty"])
    train(grown, ...)                                              # their embeddings are still to be learned

A new row starts as the mean of the embeddings of the pieces that the word is cut into now, so that the model begins near
where it was (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models", takes the mean of all rows;
the pieces' mean is a word's own). The promise: every token keeps its id and its row, and a text without a new token gets
the same ids and, to the bit, the same embedding. Left out: removing tokens, new special tokens.
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
from minisbert.sentence_encoder import SentenceEncoder
from minisbert.text.tokenizer import Tokenizer

logger = logging.getLogger("minisbert")

_TABLE = "encoder.token_embedding.embedding"
# Files that tell the vocabulary of before; tokenizer.json tells the new one to every reader.
_STALE_FILES = ("vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")


def add_tokens(encoder: SentenceEncoder, tokens: Sequence[str], *, whole_words: bool = True) -> SentenceEncoder:
    """A model that reads each of `tokens` as one token; the one given is left as it is.

    Args:
        encoder: in float32.
        tokens: words, or markers such as "[E1]". Where the model lower-cases, so are they.
        whole_words: found only where no letter or digit touches them; False finds them anywhere in a text.

    Returns:
        the grown model, with the settings of `encoder`. A space before a token belongs to it.

    Raises:
        InputError: an item that is not text, is empty, stands twice, is in the vocabulary already, or holds a special token;
            the model has no embedding table.

    Example:
        >>> encoder = SentenceEncoder.load("weights/tiny-bert")
        >>> grown = add_tokens(encoder, ["guitarists"])
        >>> [len(model.tokenizer.tokenize(["guitarists"], max_length=9).ids[0]) for model in (encoder, grown)]
        [7, 3]
    """
    if not isinstance(encoder, SentenceEncoder) or encoder.compute_dtype != "float32":
        raise InputError(f"encoder is {short_repr(encoder)}. Expected a SentenceEncoder loaded in float32.")
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
    """Each token as the tokenizer will look for it -> the ids of the pieces it is cut into now."""
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
            raise InputError(f"{place} is {token!r}, which holds the token {clash!r}. Expected none; rename it.")
        text = token.lower() if encoder.pretrained.folder.do_lower_case else token
        seen = backend.normalizer.normalize_str(text) if backend.normalizer else text
        if not seen.strip():
            raise InputError(f"{place} is {token!r}, of which the model's normalizer leaves nothing. Leave it out.")
        if seen in names:
            raise InputError(f"{place} is {token!r}, the same to this model as {names[seen]!r}. Expected each once.")
        ids = backend.encode(f" {text}", add_special_tokens=False).ids
        known = next((word for word in (token, text, seen) if word in vocabulary), None)
        if known is not None or (len(ids) == 1 and ids != unknown):
            number = ids[0] if known is None else vocabulary[known]
            raise InputError(
                f"{place} is {token!r}, which is in the vocabulary already as id {number}. Expected a word that is cut "
                "into pieces; leave it out."
            )
        names[seen], found[text] = token, ids
    return found


def _unknown(backend: Any) -> list[int]:
    """The id of what the tokenizer does not know, where it has one: a sign of that kind may well become a token."""
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
    # The file's own settings (truncation, padding) stay; only the tokens are new.
    source = files["tokenizer.json"].decode() if "tokenizer.json" in files else before.backend.to_str()
    backend = Backend.from_str(source)
    old = backend.get_vocab(with_added_tokens=True)
    backend.add_tokens([AddedToken(token, single_word=whole_words, lstrip=True, normalized=True) for token in tokens])
    content = backend.to_str(pretty=True).encode()
    folder = encoder.pretrained.folder
    tokenizer = Tokenizer(Backend.from_str(content.decode()), before.where, lower_case=folder.do_lower_case)
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
            f"{before.where}: the new tokens {short_repr(tokens)} got the ids {ids}, of which some are taken, or are not found in a "
            f"text ({unseen}). Please report this model."
        )
    return tokenizer, content, ids


def _with(encoder: SentenceEncoder, params: Any, tokenizer: Tokenizer, content: bytes, rows: int) -> SentenceEncoder:
    """The encoder with grown parts and all its settings."""
    model = encoder.pretrained
    files = {name: file for name, file in model.folder.tokenizer_files.items() if name not in _STALE_FILES}
    files["tokenizer.json"] = content
    old_rows = model.model_config.encoder.vocab_size
    passthrough = model.original.passthrough
    # A language model's head on the old vocabulary: not computed here, and of the wrong size from now on.
    heads = sorted(name for name, array in passthrough.items() if rows != old_rows and old_rows in array.shape)
    if heads:
        logger.warning(f"left out, because they are for the old vocabulary: {', '.join(heads)}")
    folder = replace(
        model.folder,
        config={**model.folder.config, "vocab_size": rows},
        tokenizer_files=files,
        prompts=encoder.prompts,
        default_prompt_name=encoder.default_prompt_name,
        similarity_fn_name=encoder.similarity_fn_name,
        truncate_dim=encoder.truncate_dim,
        max_seq_length=encoder.max_seq_length,
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
    return SentenceEncoder.from_model(grown, token_budget=encoder.shapes.token_budget)
