"""Public layouts of preference data: one reader and one writer each, told apart by themselves.

LAYOUTS             {name: Layout}
detect              the layout of some rows, or an error that shows the nearest ones
read_row, write_row one row in, one row out
read_rows           every row of a file, read or lost
convert_file        a file of one layout into a file of another
candidate_frames    a candidates layout as the batches that pairing reads
"""

from pairwright.io.layouts.catalogue import LAYOUTS
from pairwright.io.layouts.convert import candidate_frames, convert_file, read_rows
from pairwright.io.layouts.convey import best_worst, to_candidates, to_pair
from pairwright.io.layouts.detect import detect
from pairwright.io.layouts.model import Candidate, CandidateRow, Layout, Lost, Options, PairRow, Picked
from pairwright.io.layouts.rows import read_row, write_row

__all__ = [
    "LAYOUTS",
    "Candidate",
    "CandidateRow",
    "Layout",
    "Lost",
    "Options",
    "PairRow",
    "Picked",
    "best_worst",
    "candidate_frames",
    "convert_file",
    "detect",
    "read_row",
    "read_rows",
    "to_candidates",
    "to_pair",
    "write_row",
]
