"""Score matrices whose columns mean something: additive fit in the L1 norm, robust column regressions, cells that stand out.

Rows P are prompts (or completions), columns J judges, models or kinds of rating; nan, inf and -inf are missing. A column
must be the same thing in every row: slots that hold other models from row to row are none. Nothing here repairs a cell.

Source: median polish, Tukey 1977; Huber 1964. The row rule is the bound of maximum-distance codes.
"""

from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

from pairwright.core.segments import Bools, Floats, Ints
from pairwright.errors import DataError, NotIdentifiable

Matrix = NDArray[np.float64]
NORMAL_MAD = 1.4826  # sd of a normal distribution / its MAD
NORMAL_MEAN = 1.2533  # sd / mean absolute deviation
HUBER = 1.345  # 95 % efficient for normal residuals
MOST_EXACT = 50_000  # cells that the linear program takes


class TwoWay(NamedTuple):
    """X = row_P + column_J + residual. nan where a row or column has no score; parts number those -1.

    Rows and columns that no chain of observed cells joins are different parts: offsets compare within a part only, and
    each part has column offsets of median 0.
    """

    row_P: Floats
    column_J: Floats
    residual_PJ: Matrix  # nan where missing
    part_P: Ints
    part_J: Ints
    parts: int
    n_iter: int
    converged: bool  # False: the last round still moved an offset; do not build on the fit


def fit_two_way(score_PJ: Matrix, *, tol: float = 1e-8, most: int = 1000) -> TwoWay:
    """Median polish: row and column medians in turn until no offset moves by tol times the largest |score|.

    Each round lowers sum |residual|, but it may stop short of the least sum: `fit_two_way_exact` is the reference.
    """
    known_PJ, part_P, part_J, parts = _parts(score_PJ)
    filled_PJ = np.where(known_PJ, score_PJ, 0.0)
    hidden_PJ = np.where(known_PJ, 0.0, np.inf)  # added, it sorts missing cells to the end
    count_P, count_J = known_PJ.sum(axis=1), known_PJ.sum(axis=0)
    row_P, column_J = np.zeros(len(count_P)), np.zeros(len(count_J))
    least = tol * max(float(np.abs(filled_PJ).max(initial=0.0)), np.finfo(float).tiny)
    hidden_JP, filled_JP = np.ascontiguousarray(hidden_PJ.T), np.ascontiguousarray(filled_PJ.T)
    n_iter, moved = 0, np.inf
    while moved > least and n_iter < most:
        n_iter += 1
        new_P = _middle(filled_PJ - column_J + hidden_PJ, count_P)
        new_J = _middle(filled_JP - new_P + hidden_JP, count_J)
        new_P, new_J = _centred(new_P, new_J, part_P, part_J)
        moved = max(np.abs(new_P - row_P).max(initial=0.0), np.abs(new_J - column_J).max(initial=0.0))
        row_P, column_J = new_P, new_J
    return _two_way(score_PJ, (row_P, column_J), (part_P, part_J, parts), n_iter, bool(moved <= least))


def fit_two_way_exact(score_PJ: Matrix) -> TwoWay:
    """The least sum |X - row - column| by linear programming, for matrices up to 50,000 cells; not always unique."""
    known_PJ, part_P, part_J, parts = _parts(score_PJ)
    cells, (rows, columns) = int(known_PJ.sum()), known_PJ.shape
    if cells > MOST_EXACT:
        raise DataError(f"{cells} cells are too many for the linear program ({MOST_EXACT}); use fit_two_way")
    p, j = np.nonzero(known_PJ)
    at, one = np.arange(cells), np.ones(cells)
    # X = u + v + plus - minus, both parts of the residual at least 0
    design = scipy.sparse.csr_array(
        (np.tile(one, 4) * np.repeat([1.0, 1.0, 1.0, -1.0], cells), (np.tile(at, 4), _places(p, j, at, rows, columns))),
        shape=(cells, rows + columns + 2 * cells),
    )
    cost = np.concatenate([np.zeros(rows + columns), np.ones(2 * cells)])
    bounds = [(None, None)] * (rows + columns) + [(0, None)] * (2 * cells)
    found = scipy.optimize.linprog(cost, A_eq=design, b_eq=score_PJ[p, j], bounds=bounds, method="highs")
    offset = found.x if found.success else np.zeros(rows + columns)
    row_P, column_J = _centred(offset[:rows], offset[rows : rows + columns], part_P, part_J)
    return _two_way(score_PJ, (row_P, column_J), (part_P, part_J, parts), int(found.nit), bool(found.success))


def _places(p: Ints, j: Ints, at: Ints, rows: int, columns: int) -> Ints:
    first = rows + columns
    return np.concatenate([p, rows + j, first + at, first + len(at) + at])


def _two_way(
    score_PJ: Matrix, offsets: tuple[Floats, Floats], parts: tuple[Ints, Ints, int], n_iter: int, converged: bool
) -> TwoWay:
    row_P, column_J = (np.where(part < 0, np.nan, offset) for part, offset in zip(parts[:2], offsets, strict=True))
    residual_PJ = np.where(np.isfinite(score_PJ), score_PJ, np.nan) - row_P[:, None] - column_J
    return TwoWay(row_P, column_J, residual_PJ, *parts, n_iter, converged)


def _parts(score_PJ: Matrix) -> tuple[Bools, Ints, Ints, int]:
    """Observed cells and the connected parts of the graph that joins rows to columns through them."""
    known_PJ: Bools = np.isfinite(score_PJ)
    rows, columns = known_PJ.shape
    p, j = np.nonzero(known_PJ)
    graph = scipy.sparse.coo_array((np.ones(len(p)), (p, rows + j)), shape=(rows + columns, rows + columns))
    _, part = scipy.sparse.csgraph.connected_components(graph, directed=False)
    seen = np.concatenate([known_PJ.any(axis=1), known_PJ.any(axis=0)])
    names, renamed = np.unique(part[seen], return_inverse=True)
    out = np.full(rows + columns, -1, np.int64)
    out[seen] = renamed
    return known_PJ, out[:rows], out[rows:], len(names)


def _middle(value_RT: Matrix, count_R: Ints) -> Floats:
    """Median of the first `count` values of each sorted row, 0 for none; missing values are inf."""
    value_RT = np.sort(value_RT, axis=1)
    rows = np.arange(len(value_RT))
    if value_RT.shape[1] == 0:
        return np.zeros(len(rows))
    low, high = value_RT[rows, np.maximum(count_R - 1, 0) // 2], value_RT[rows, np.minimum(count_R // 2, count_R - 1)]
    return np.where(count_R > 0, np.where(np.isfinite(low), low, 0) / 2 + np.where(np.isfinite(high), high, 0) / 2, 0.0)


def _centred(row_P: Floats, column_J: Floats, part_P: Ints, part_J: Ints) -> tuple[Floats, Floats]:
    """Moves the median of the column offsets of each part into its rows."""
    row_P, column_J = row_P.copy(), column_J.copy()
    for part in range(part_J.max(initial=-1) + 1):  # at most as many as columns
        middle = np.median(column_J[part_J == part])
        column_J[part_J == part] -= middle
        row_P[part_P == part] += middle
    return row_P, column_J


def robust_scale(residual_PJ: Matrix) -> Floats:
    """sd of each column: 1.4826 MAD; where that is 0 (coarse ratings) 1.2533 mean |residual|; nan without residuals.

    Residuals within rounding (1e-12 of the largest in the matrix) count as 0; a column of such has scale 0.
    """
    known_PJ = np.isfinite(residual_PJ)
    away_JP = np.where(known_PJ, np.abs(residual_PJ), np.inf).T
    count_J = known_PJ.sum(axis=0)
    if residual_PJ.size == 0:
        return np.full(residual_PJ.shape[1], np.nan)
    centre_J = _middle(np.where(known_PJ, residual_PJ, np.inf).T, count_J)
    mad_J = _middle(np.where(known_PJ, np.abs(residual_PJ - centre_J), np.inf).T, count_J)
    mean_J = np.where(np.isfinite(away_JP), away_JP, 0.0).sum(axis=1) / np.maximum(count_J, 1)
    least = 1e-12 * np.where(np.isfinite(away_JP), away_JP, 0.0).max(initial=0.0)
    scale_J = np.where(mad_J > least, NORMAL_MAD * mad_J, np.where(mean_J > least, NORMAL_MEAN * mean_J, 0.0))
    return np.where(count_J > 0, scale_J, np.nan)


def standardised(residual_PJ: Matrix, scale_J: Floats) -> Matrix:
    """z = residual / scale of its column; 0 in a column of scale 0, where nothing can stand out; nan where missing."""
    usable_J: Bools = np.asarray(scale_J > 0)
    return np.where(usable_J, residual_PJ / np.where(usable_J, scale_J, 1.0), residual_PJ * 0.0)


def noise_floor(fit: TwoWay) -> float:
    """sd of one cell: 1.4826 median |residual| without the smallest residuals, as many as the fit has offsets.

    A median sets about one residual per offset to 0, which is why a plain MAD is too small: with 4 of 17 cells of a row
    observed it gives 0.21 for a true 0.30, this gives 0.30 (0.36 with 3 of 17). nan where no cell is left over.
    """
    away = np.abs(fit.residual_PJ[np.isfinite(fit.residual_PJ)])
    parameters = int((fit.part_P >= 0).sum() + (fit.part_J >= 0).sum()) - fit.parts
    free = len(away) - parameters
    if free <= 0:
        return np.nan
    return float(NORMAL_MAD * np.median(np.sort(away)[parameters:]))


class Capacity(NamedTuple):
    """Gross errors that a row can bear, whatever their size, when the column factors are known."""

    correctable_P: Ints  # floor((q - r) / 2)
    detectable_P: Ints  # q - r


def row_capacity(score_PJ: Matrix, *, rank: int = 1) -> Capacity:
    """The row rule for q observed cells and r row parameters (additive: 1)."""
    spare_P = np.maximum(np.isfinite(score_PJ).sum(axis=1) - rank, 0)
    return Capacity(spare_P // 2, spare_P)


class ColumnFit(NamedTuple):
    """Each column regressed on the others. Rows with a missing cell are not used and have nan."""

    residual_PJ: Matrix
    scale_J: Floats
    z_PJ: Matrix
    weight_JK: Matrix  # row j: the intercept at place j, the slopes of the other columns at theirs
    used_P: Bools
    n_iter_J: Ints
    converged_J: Bools  # a column that is not converged has nan residuals: nothing to list


def fit_columns(score_PJ: Matrix, *, delta: float = HUBER, tol: float = 1e-8, most: int = 200) -> ColumnFit:
    """Huber regression of every column on an intercept and all others, by reweighted least squares.

    Weights min(1, delta s / |residual|) with s = 1.4826 MAD (fallback as in `robust_scale`). A wrong cell also shifts the
    fits of the other columns of its row: where several stand out, the largest |z| is the suspect.
    """
    used_P = np.asarray(np.isfinite(score_PJ).all(axis=1))
    kept_RJ = score_PJ[used_P]
    rows, columns = kept_RJ.shape
    if columns < 2 or rows <= columns:
        raise NotIdentifiable(
            f"{rows} complete rows for {columns} columns; a column regression needs two columns and more rows than columns"
        )
    fits = [_huber(kept_RJ, j, delta, tol, most) for j in range(columns)]
    residual_PJ = np.full(score_PJ.shape, np.nan)
    for j, (_, residual_R, _, converged) in enumerate(fits):
        residual_PJ[used_P, j] = residual_R if converged else np.nan
    scale_J = robust_scale(residual_PJ)
    z_PJ = standardised(residual_PJ, scale_J)
    weight_JK = np.stack([fit[0] for fit in fits])
    n_iter_J, converged_J = np.array([fit[2] for fit in fits]), np.array([fit[3] for fit in fits])
    return ColumnFit(residual_PJ, scale_J, z_PJ, weight_JK, used_P, n_iter_J, converged_J)


def _huber(kept_RJ: Matrix, j: int, delta: float, tol: float, most: int) -> tuple[Floats, Floats, int, bool]:
    target_R, design_RJ = kept_RJ[:, j], kept_RJ.copy()
    design_RJ[:, j] = 1.0
    weight_R, before = np.ones(len(target_R)), np.full(len(target_R), np.inf)
    least = tol * max(float(np.abs(target_R).max()), np.finfo(float).tiny)
    for n_iter in range(1, most + 1):
        root_R = np.sqrt(weight_R)
        slope_J: Floats = np.linalg.lstsq(design_RJ * root_R[:, None], target_R * root_R, rcond=None)[0].astype(
            np.float64
        )
        residual_R = target_R - design_RJ @ slope_J
        if np.abs(residual_R - before).max() <= least:
            return slope_J, residual_R, n_iter, True
        bound = delta * max(float(robust_scale(residual_R[:, None])[0]), np.finfo(float).tiny)
        weight_R = np.minimum(1.0, bound / np.maximum(np.abs(residual_R), np.finfo(float).tiny))
        before = residual_R
    return slope_J, residual_R, most, False


def standing_out(z_PJ: Matrix, *, z0: float = 5.0) -> tuple[Ints, Ints]:
    """Rows and columns of the cells with |z| > z0, the largest first."""
    size_PJ = np.where(np.isfinite(z_PJ), np.abs(z_PJ), 0.0)
    p, j = np.nonzero(size_PJ > z0)
    order = np.argsort(-size_PJ[p, j], kind="stable")
    return p[order], j[order]
