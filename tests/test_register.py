"""register.py: losses, poolings and similarities from outside the package are used, saved and loaded by their names."""

from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from minisbert import (
    SentenceEncoder,
    TrainConfig,
    commands,
    pooling,
    register_encoder,
    register_loss,
    register_pooling,
    register_similarity,
    similarity,
    train,
)
from minisbert.checkpoint import folder, modules
from minisbert.checkpoint.convert import Rule
from minisbert.cross_encoder.model import CrossEncoderConfig, CrossEncoderModel
from minisbert.encoders import bert
from minisbert.errors import InputError, ModelFolderError
from minisbert.text.packing import pack
from minisbert.training.losses import Loss
from minisbert.training.softmax_head import read_loss_head

pytestmark = pytest.mark.usefixtures("tables_as_before")
TINY = Path(__file__).parents[1] / "weights" / "tiny-static"
ROWS = [(f"question {i}", f"answer {i}") for i in range(8)]
TEXTS = ["question 1", "a longer answer 2 and more", ""]


class AttentionPooling(nnx.Module):
    """softmax(hidden . query)-weighted mean."""

    def __init__(self, width, *, rngs):
        self.query = nnx.Param(jax.random.normal(rngs.params(), (width,)))

    def __call__(self, hidden_BLD, mask_BL):
        scores_BL = jnp.where(mask_BL, hidden_BLD @ self.query[...], -1e9)
        return jnp.einsum("bl,bld->bd", jax.nn.softmax(scores_BL), jnp.where(mask_BL[..., None], hidden_BLD, 0))


def first_and_mean(hidden_BLD, mask_BL):
    return (pooling.cls(hidden_BLD, mask_BL) + pooling.mean(hidden_BLD, mask_BL)) / 2


def test_a_pooling_is_saved_and_loaded_by_its_name(tmp_path):
    register_pooling("first_and_mean", first_and_mean)
    encoder = SentenceEncoder(TINY.with_name("tiny-layers")).with_pooling("first_and_mean", "mean")
    encoder.save(tmp_path / "model")
    loaded = SentenceEncoder(tmp_path / "model")
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    assert np.abs(encoder.encode(TEXTS[:2]) - encoder.with_pooling("max", "mean").encode(TEXTS[:2])).max() > 1e-3
    del pooling.POOLINGS["first_and_mean"], modules.POOLING_MODES[-1]
    with pytest.raises(ModelFolderError, match=r"pooling_mode.*first_and_mean.*register_pooling"):
        SentenceEncoder(tmp_path / "model")


def first_two(hidden_BLD, mask_BL):
    kept_BL = mask_BL & (jnp.arange(mask_BL.shape[1]) < 2)
    return jnp.where(kept_BL[..., None], hidden_BLD, 0).sum(axis=1)


class WeightPerPlace(nnx.Module):
    def __init__(self, width, *, rngs):
        self.weights = nnx.Param(jnp.ones(512))

    def __call__(self, hidden_BLD, mask_BL):
        weight_BL = jnp.where(mask_BL, self.weights[: mask_BL.shape[1]], 0)
        return jnp.einsum("bl,bld->bd", weight_BL, jnp.where(mask_BL[..., None], hidden_BLD, 0))


@pytest.mark.parametrize("pooling_of_places", [first_two, WeightPerPlace])
@pytest.mark.parametrize("prompt", ["", "so: "])
def test_a_pooling_that_counts_places_pools_packed_texts_as_alone(pooling_of_places, prompt):
    register_pooling("places", pooling_of_places)
    register_pooling("first_and_mean", first_and_mean)
    register_pooling("attention", AttentionPooling)
    assert {"places"} == pooling.COUNT_PLACES
    encoder = SentenceEncoder(TINY.with_name("tiny-bert")).with_pooling("places")
    heads = jax.tree.map(lambda leaf: jnp.arange(1.0, 1 + leaf.size), encoder.params.get("heads", {}))
    encoder = encoder.with_params({**encoder.params, **({"heads": heads} if heads else {})})
    alone = encoder.encode(TEXTS, prompt=prompt)
    encoder.packing = True  # a batch is packed once it is full
    packed = encoder.encode(50 * TEXTS, prompt=prompt)
    np.testing.assert_allclose(packed, np.tile(alone, (50, 1)), rtol=1e-4, atol=1e-5)


def test_a_reranker_with_a_pooling_that_counts_places():
    """Two pairs in one row have the logits that each has in a row of its own."""
    register_pooling("places", WeightPerPlace)
    chain = (modules.TrainedPooling("places", 32), modules.Dense(32, 2, activation="identity", scores=True))
    encoder = SentenceEncoder(TINY.with_name("tiny-bert")).model_config.encoder
    reranker = CrossEncoderModel(CrossEncoderConfig("bert", encoder, 2, modules=chain), rngs=nnx.Rngs(0))
    reranker.heads[0].weights[...] = jnp.arange(512.0)

    def logits(pairs, first_lengths):
        rows, where = pack(pairs, padding_id=0, first_lengths=first_lengths)
        return reranker.packed(rows).reshape(-1, 2)[where]

    first, second = [2, 10, 3, 11, 12, 3], [2, 9, 8, 3, 7, 3]
    apart = np.concatenate([logits([first], [3]), logits([second], [4])])
    np.testing.assert_allclose(logits([first, second], [3, 4]), apart, rtol=1e-5, atol=1e-4)


def test_a_pooling_with_weights_is_trained_resumed_saved_and_loaded(tmp_path):
    register_pooling("attention", AttentionPooling)
    model = TINY.with_name("tiny-bert")
    encoder = SentenceEncoder(model).with_pooling("attention", seed=3)
    start = encoder.params["heads"][0]["query"]

    class Killed(BaseException):
        pass

    class Kill:
        def on_checkpoint(self, run):
            raise Killed

    few = {"batch_size": 4, "max_steps": 2, "checkpoint_every": 1, "dropout": False}
    config = TrainConfig(data=ROWS, learning_rate=1e-2, warmup=0.0, **few)
    whole = train(encoder, config, show_progress=False)
    with pytest.raises(Killed):
        train(encoder, config, tmp_path, callbacks=[Kill()], show_progress=False)
    resumed = train(encoder, config, tmp_path, show_progress=False)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)
    loaded = SentenceEncoder(tmp_path / "final")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, resumed.params)
    assert np.abs(loaded.params["heads"][0]["query"] - start).max() > 1e-3
    # Packed rows give what single texts give.
    packed = SentenceEncoder(tmp_path / "final", packing=True)
    np.testing.assert_allclose(packed.encode(TEXTS * 5), loaded.encode(TEXTS * 5), atol=1e-6)
    pooling.TRAINED_POOLINGS.clear()
    modules.TRAINED_RULES.clear()
    with pytest.raises(ModelFolderError, match=r"'name' is 'attention'.*register_pooling"):
        SentenceEncoder(tmp_path / "final")


class GeM(nnx.Module):
    """The mean of the p-th powers, to the power 1/p; p is trained."""

    def __init__(self, width, *, rngs):
        self.p = nnx.Param(jnp.array(3.0))

    def __call__(self, hidden_BLD, mask_BL):
        powers_BLD = jnp.where(mask_BL[..., None], jnp.abs(hidden_BLD) ** self.p[...], 0)
        return (powers_BLD.sum(1) / mask_BL.sum(1, keepdims=True)) ** (1 / self.p[...])


def test_a_scalar_among_the_weights_stays_a_scalar(tmp_path):
    register_pooling("gem", GeM)
    encoder = SentenceEncoder(TINY.with_name("tiny-bert")).with_pooling("gem")
    config = TrainConfig(
        data=ROWS,
        loss=Loss(
            lambda embeddings_SBD, targets, head=None: head["scale"] * jnp.mean(embeddings_SBD**2),
            head=lambda key, width, classes: {"scale": jnp.array(2.0)},
        ),
        max_steps=1,
        batch_size=4,
        dropout=False,
    )
    trained = train(encoder, config, tmp_path, show_progress=False)
    loaded = SentenceEncoder(tmp_path / "final")
    assert loaded.params["heads"][0]["p"].shape == () and loaded.params["heads"][0]["p"] != 3
    np.testing.assert_array_equal(loaded.encode(TEXTS), trained.encode(TEXTS))
    assert read_loss_head(tmp_path / "final")["scale"].shape == ()


def other_arrays(add):
    class Other(AttentionPooling):
        def __init__(self, width, *, rngs):
            super().__init__(width, rngs=rngs)
            self.other = add(width, rngs)

    return Other


def test_a_similarity_is_saved_and_loaded_by_its_name(tmp_path):
    def scaled(a_BD, b_MD):
        return 2 * similarity.dot(a_BD, b_MD)

    def pairwise(a_BD, b_BD):
        return 2 * similarity.pairwise_dot(a_BD, b_BD)

    register_similarity("twice_dot", scaled, pairwise)
    encoder = SentenceEncoder(TINY)
    encoder.similarity_fn_name = "twice_dot"
    encoder.save(tmp_path / "model")
    loaded = SentenceEncoder(tmp_path / "model")
    a_BD = loaded.encode(TEXTS)
    np.testing.assert_allclose(loaded.similarity(a_BD, a_BD), 2 * a_BD @ a_BD.T, rtol=1e-6)
    del similarity.SIMILARITIES["twice_dot"], folder.SIMILARITY_NAMES[-1]
    with pytest.raises(ModelFolderError, match="similarity_fn_name"):
        SentenceEncoder(tmp_path / "model")


def plugin():
    register_loss(
        "my_loss", lambda embeddings_SBD, targets, head=None: jnp.mean((embeddings_SBD[0] - embeddings_SBD[1]) ** 2)
    )


def test_a_package_adds_a_loss_to_the_command_line(tmp_path, monkeypatch, capsys):
    data = tmp_path / "pairs.tsv"
    data.write_text("anchor\tpositive\n" + "".join(f"{a}\t{b}\n" for a, b in ROWS))
    words = ["train", str(TINY), str(tmp_path / "run"), "--data", str(data), "--loss", "my_loss", "--max-steps", "1"]
    assert commands.main(words) == 2 and "loss is 'my_loss'" in capsys.readouterr().err
    mine = EntryPoint("mine", f"{__name__}:plugin", "minisbert.plugins")
    monkeypatch.setattr(commands, "entry_points", lambda group: [mine] if group == mine.group else [])
    assert commands.main([*words, "--batch-size", "4"]) == 0
    assert (tmp_path / "run" / "final" / "modules.json").exists()


def padding_counts(hidden_BLD, mask_BL):
    return hidden_BLD.mean(axis=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: register_loss("triplet", lambda e, t: 0), "the name 'triplet' is taken"),
        (lambda: register_loss("a b", lambda e, t: 0), "name is 'a b'"),
        (lambda: register_loss("mine", 3), "loss is 3"),
        (lambda: register_pooling("mine", padding_counts), "padding changes it"),
        (lambda: register_pooling("mine", lambda hidden_BLD, mask_BL: hidden_BLD), "maps [2, 3, 4] to [2, 3, 4]"),
        (lambda: register_pooling("mine", 3), "pooling is 3"),
        (lambda: register_pooling("mine", lambda hidden_BLD, mask_BL: np.asarray(hidden_BLD).max(1)), "jax.numpy"),
        *(
            (lambda add=add: register_pooling("mine", other_arrays(add)), f"has 'other{name}")
            for name, add in {
                ".rngs.count'": lambda width, rngs: nnx.Dropout(0.1, rngs=rngs),
                ".mean'": lambda width, rngs: nnx.BatchNorm(width, rngs=rngs),
                "', Param of bfloat16": lambda width, rngs: nnx.Param(jnp.zeros(width, jnp.bfloat16)),
                "'": lambda width, rngs: jnp.zeros(width),
            }.items()
        ),
        (lambda: register_pooling("mean", first_and_mean), "'mean' is taken"),
        (
            lambda: register_similarity("mine", similarity.dot, similarity.pairwise_cosine),
            "the numbers of its diagonal",
        ),
        (lambda: register_similarity("mine", similarity.dot, None), "Expected two functions"),
        (lambda: register_encoder("bert", pooling), "has no Config, Encoder, RULES"),
        (lambda: register_encoder("mpnet", bert), "'mpnet' is taken"),
        (
            lambda: register_encoder(
                "mine", SimpleNamespace(**vars(bert) | {"RULES": [Rule("a", "b", "D,A", when="gated")]})
            ),
            "has no Config.gated, Config.query_width",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(call, message):
    with pytest.raises(InputError) as refused:
        call()
    assert message in str(refused.value)
