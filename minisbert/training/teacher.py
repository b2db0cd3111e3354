"""The model that another one learns from: its embeddings are the targets of the `mse` loss (Reimers & Gurevych 2020)."""

from minisbert.errors import InputError
from minisbert.sentence_encoder import SentenceEncoder


def load_teacher(name: str, student: SentenceEncoder) -> SentenceEncoder:
    """The teacher by name or folder.

    Raises:
        InputError: its embeddings are of another width than the student's.
    """
    teacher = SentenceEncoder.load(name)
    width = teacher.get_embedding_dimension()
    if width != student.model_config.dimension:
        raise InputError(
            f"teacher {name} has embeddings of width {width}, the model {student.model_config.dimension}. "
            "Expected the same: add a Dense module to the model, or take another teacher."
        )
    return teacher
