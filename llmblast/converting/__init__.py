"""Converting: rewrite files of requests and of results in other forms and kinds of files, without a run.

1. `inputs` reads what a run reads, by the sources and file formats of `reading`. A *file kind* (`file_kinds`: jsonl,
   csv, tsv, parquet, arrow) turns rows into a file.
2. A *form* says what a row means: a request (`request_forms`) or a result (`result_forms`). In the middle stand
   `Request` and `ResultRecord`.
3. `conversion` connects both.

A new file kind or form is one file and one line in its table.
"""

from llmblast.converting.conversion import FORMS, Conversion, Outcome, convert

__all__ = ["FORMS", "Conversion", "Outcome", "convert"]
