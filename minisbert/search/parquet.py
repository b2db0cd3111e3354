"""An index for other stores: a parquet file with a column of fixed-size lists.

    export_parquet(index, "vectors.parquet")               # id, text, embedding: fixed_size_list<float>[width]

What reads it. LanceDB takes the table as it is:

    import lancedb, pyarrow.parquet as pq
    table = lancedb.connect("db").create_table("texts", pq.read_table("vectors.parquet"))
    table.search(encoder.encode_query("where is the cat?")).distance_type("cosine").limit(10).to_list()

Qdrant wants points, with whole numbers or UUIDs as ids:

    from qdrant_client import QdrantClient, models
    client, rows = QdrantClient(path="db"), pq.read_table("vectors.parquet").to_pylist()
    size = len(rows[0]["embedding"])
    client.create_collection("texts", vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
    client.upload_points("texts", (models.PointStruct(id=i, vector=row["embedding"], payload={"id": row["id"],
        "text": row["text"]}) for i, row in enumerate(rows)))

Pinecone wants text ids and batches (here of 100):

    from pinecone import Pinecone
    store = Pinecone(api_key="...").Index("texts")         # made before, with this width and metric="cosine"
    for i in range(0, len(rows), 100):
        store.upsert([(str(row["id"]), row["embedding"], {"text": row["text"] or ""}) for row in rows[i : i + 100]])

An index by dot product asks for their "dot" instead of "cosine".
"""

from pathlib import Path

from minisbert.atomic_write import whole_file
from minisbert.data.sources import parquet_library
from minisbert.errors import InputError
from minisbert.search.index import PART, Index


def export_parquet(index: Index, file: str | Path) -> None:
    """Write the ids, texts and float32 vectors; the file appears whole or not at all.

    Args:
        index: ids that are all whole numbers stay numbers; else all are written as text.

    Raises:
        InputError: pyarrow is not installed; the index is empty or does not keep float32 vectors.
        WriteError: the file cannot be written.
    """
    parquet = parquet_library()
    import pyarrow

    if index.width is None or not index.keeps_floats:
        raise InputError("the index has no float32 vectors. Expected rows, and rescore=True where they are quantized.")
    numbers = all(isinstance(one, int) and -(2**63) <= one < 2**63 for one in index.ids)
    vector = pyarrow.list_(pyarrow.float32(), index.width)
    id_type = pyarrow.int64() if numbers else pyarrow.string()
    schema = pyarrow.schema([("id", id_type), ("text", pyarrow.string()), ("embedding", vector)])
    with whole_file(Path(file)) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for first, part_MD in zip(range(0, len(index), PART), index.float_parts(), strict=True):
            ids = index.ids[first : first + PART]
            columns = [
                pyarrow.array(ids if numbers else map(str, ids), id_type),
                pyarrow.array(index.texts[first : first + PART], pyarrow.string()),
                pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(part_MD.ravel()), index.width),
            ]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
