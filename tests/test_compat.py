"""Adapters for other libraries, each against the real one, whose own code gets the encoder's embeddings."""

import copy
import pickle

import numpy as np
import pytest

from minisbert import CrossEncoder, SentenceEncoder, compat
from minisbert.errors import InputError

TEXTS = ["a man eats", "the dog runs", "two cats play music", "a plane lands in the city"]


@pytest.fixture(scope="module")
def encoder():
    encoder = SentenceEncoder("weights/tiny-bert")
    encoder.prompts |= {"query": "who: ", "document": "what: "}
    return encoder


@pytest.fixture(scope="module")
def documents_BD(encoder):
    return encoder.encode_document(TEXTS)


def test_langchain(encoder, documents_BD):
    stores = pytest.importorskip("langchain_core.vectorstores")
    embeddings = compat.langchain(encoder)
    assert np.allclose(embeddings.embed_documents(TEXTS), documents_BD)
    store = stores.InMemoryVectorStore.from_texts(TEXTS, embeddings)
    scores = encoder.similarity(encoder.encode_query("who runs"), documents_BD)[0]
    found = store.similarity_search_with_score("who runs", k=1)[0]
    assert found[0].page_content == TEXTS[int(scores.argmax())] and found[1] == pytest.approx(
        float(scores.max()), abs=1e-5
    )


def test_llama_index(encoder, documents_BD):
    core = pytest.importorskip("llama_index.core")
    model = compat.llama_index(encoder)
    assert np.allclose(model.get_text_embedding_batch(TEXTS), documents_BD, atol=1e-6)
    nodes = [pytest.importorskip("llama_index.core.schema").TextNode(text=text) for text in TEXTS]
    index = core.VectorStoreIndex(nodes, embed_model=model)
    found = index.as_retriever(similarity_top_k=1).retrieve("who runs")[0]
    scores = encoder.similarity(encoder.encode_query("who runs"), documents_BD)[0]
    assert found.score == pytest.approx(float(scores.max()), abs=1e-5)


def test_bertopic(encoder):
    utils = pytest.importorskip("bertopic.backend._utils")
    backend = compat.bertopic(encoder)
    assert utils.select_backend(backend) is backend
    assert np.array_equal(backend.embed_documents(TEXTS), encoder.encode(TEXTS))


def test_keybert(encoder):
    keybert = pytest.importorskip("keybert")
    found = keybert.KeyBERT(model=compat.keybert(encoder)).extract_keywords(TEXTS[2], top_n=2)
    words, text = encoder.encode([word for word, _ in found]), encoder.encode(TEXTS[2])
    assert [score for _, score in found] == pytest.approx(encoder.similarity(words, text)[:, 0].tolist(), abs=1e-3)


def test_haystack(encoder, documents_BD):
    haystack = pytest.importorskip("haystack")
    pipeline = haystack.Pipeline()
    pipeline.add_component("embed", compat.haystack_documents(encoder))
    documents = [haystack.Document(content=text, meta={"row": i}) for i, text in enumerate(TEXTS)]
    found = pipeline.run({"embed": {"documents": documents}})["embed"]["documents"]
    assert np.allclose([one.embedding for one in found], documents_BD) and found[2].meta == {"row": 2}
    assert documents[0].embedding is None
    assert np.allclose(compat.haystack_text(encoder).run(text="who")["embedding"], encoder.encode_query("who"))


def test_scikit_learn(encoder):
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(compat.scikit_learn(encoder, normalize_embeddings=True), LogisticRegression())
    plain = LogisticRegression().fit(encoder.encode(TEXTS, normalize_embeddings=True), [0, 1, 1, 0])
    assert np.array_equal(
        model.fit(TEXTS, [0, 1, 1, 0]).predict_proba(TEXTS),
        plain.predict_proba(encoder.encode(TEXTS, normalize_embeddings=True)),
    )
    assert len(cross_val_score(model, TEXTS * 2, [0, 1, 1, 0] * 2, cv=2)) == 2  # it can be cloned


def test_chroma(encoder, documents_BD):
    chromadb = pytest.importorskip("chromadb")
    notes = chromadb.EphemeralClient().create_collection("notes", embedding_function=compat.chroma(encoder))
    notes.add(ids=list("abcd"), documents=TEXTS)
    assert np.allclose(notes.get(include=["embeddings"])["embeddings"], documents_BD, atol=1e-6)
    distances = ((encoder.encode_query("who runs") - documents_BD) ** 2).sum(axis=1)
    assert notes.query(query_texts=["who runs"], n_results=1)["distances"][0][0] == pytest.approx(
        distances.min(), abs=1e-4
    )


def test_a_missing_library_is_named(encoder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "keybert.backend", None)
    with pytest.raises(InputError, match="pip install keybert"):
        compat.keybert(encoder)


def test_sentence_transformers_evaluators_of_cross_encoders(encoder, tmp_path):
    theirs = pytest.importorskip("sentence_transformers")
    evaluation = pytest.importorskip("sentence_transformers.cross_encoder.evaluation")
    model = CrossEncoder.from_encoder(encoder)
    model.save(tmp_path / "model")
    ours, peer = compat.sentence_transformers(model), theirs.CrossEncoder(str(tmp_path / "model"), device="cpu")
    pairs = [["who", text] for text in TEXTS]
    for evaluator in (
        evaluation.CrossEncoderCorrelationEvaluator(pairs, [0.9, 0.8, 0.1, 0.3]),
        evaluation.CrossEncoderClassificationEvaluator(pairs, [1, 1, 0, 0]),
        evaluation.CrossEncoderRerankingEvaluator([{"query": "who", "positive": TEXTS[:1], "negative": TEXTS[1:]}]),
    ):
        assert evaluator(ours) == pytest.approx(evaluator(peer), abs=1e-4)
    asked = compat.sentence_transformers(model, prompt="find: ")
    scores = asked.predict(pairs, convert_to_tensor=True)
    assert scores.tolist() == pytest.approx(peer.predict(pairs, prompt="find: ").tolist(), abs=1e-6)
    assert asked.rank("who", TEXTS) == model.rank("who", TEXTS, prompt="find: ") != model.rank("who", TEXTS)


def test_sentence_transformers_evaluators(encoder, tmp_path):
    """Their own evaluators, over the encoder and over their model of the same folder."""
    theirs = pytest.importorskip("sentence_transformers")
    evaluation = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    encoder.save(tmp_path / "model")
    ours, peer = (
        compat.sentence_transformers(encoder),
        theirs.SentenceTransformer(str(tmp_path / "model"), device="cpu"),
    )
    others = ["someone has a meal", "a dog is running", "music by cats", "the plane takes off"]
    ids, other_ids = dict(zip("abcd", TEXTS, strict=True)), dict(zip("efgh", others, strict=True))
    evaluators = {
        "sts": evaluation.EmbeddingSimilarityEvaluator(TEXTS, others, [0.9, 0.8, 0.1, 0.3]),
        "binary": evaluation.BinaryClassificationEvaluator(TEXTS, others, [1, 1, 0, 0]),
        "triplet": evaluation.TripletEvaluator(TEXTS, others, others[::-1]),
        "retrieval": evaluation.InformationRetrievalEvaluator(ids, other_ids, {"a": {"e"}, "b": {"g"}}),
        "paraphrases": evaluation.ParaphraseMiningEvaluator(ids | other_ids, [("a", "e")]),
        "reranking": evaluation.RerankingEvaluator([{"query": "who", "positive": TEXTS[:1], "negative": others}]),
        "translation": evaluation.TranslationEvaluator(TEXTS, others),
        "mse": evaluation.MSEEvaluator(TEXTS, others, teacher_model=ours),
        "mse of rows": evaluation.MSEEvaluatorFromDataFrame(
            [{"en": one, "de": other} for one, other in zip(TEXTS, others, strict=True)], peer, [("en", "de")]
        ),
    }
    for name, evaluator in evaluators.items():
        assert evaluator(ours) == pytest.approx(evaluator(peer), abs=1e-5), name
    assert copy.copy(ours).max_seq_length == encoder.max_seq_length
    short = compat.sentence_transformers(encoder, truncate_dim=8, batch_size=2)  # which evaluators pass too
    assert short.encode(TEXTS, truncate_dim=None, batch_size=1).shape == (len(TEXTS), 8)
    assert evaluators["sts"](short) != evaluators["sts"](ours)
    assert pickle.loads(pickle.dumps(ours)).model_card_data.set_evaluation_metrics() is None
    tokens = ours.encode(TEXTS, output_value="token_embeddings")
    assert np.array_equal(tokens[0].numpy(), encoder.encode(TEXTS, output_value="token_embeddings")[0])
    tensor = ours.encode(TEXTS, convert_to_tensor=True).requires_grad_()
    assert ours.similarity(tensor, tensor.bfloat16()).shape == (len(TEXTS), len(TEXTS))
    for text in (TEXTS, TEXTS[0]):
        assert np.array_equal(ours.encode(text, convert_to_tensor=True).numpy(), encoder.encode(text))
        assert np.array_equal(np.stack(ours.encode(text, convert_to_numpy=False)), encoder.encode(text))
