"""The margins of pairs under a model whose parameters can be moved, and their gradients.

Every response is computed once, against one computed prompt, however many pairs it is in (`pairwright.backends.causal`).
Gradients go the same way, or, where they are to check it, one sequence at a time through the whole model. Log-softmax,
sums and accumulated gradients are float32 or wider whatever the model computes in; dropout is off.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pairwright.backends import prefix
from pairwright.backends.causal import CausalLM, CausalSettings, _stand_in
from pairwright.backends.hf import model_hash
from pairwright.backends.prefix import Group
from pairwright.errors import BackendError, ConfigError
from pairwright.protocols import Answered, Message
from pairwright.tables import canonical_json

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LORA = "lora"
FACTOR = re.compile(r"\.lora_(A|B|embedding_A|embedding_B)\.|\.lora_magnitude_vector\.")


@dataclass(frozen=True, slots=True)
class Laid:
    """Pairs as tokens: groups of one prompt each, and the group and branches of every pair.

    `group_I` is -1 where `reason_I` says why the pair has no tokens. Token counts are of what is summed.
    """

    groups: list[Group]
    group_I: Ints
    branch_SI: Ints  # (2, I): chosen, rejected
    n_tokens_SI: Ints
    truncated_I: NDArray[np.bool_]
    reason_I: list[str | None]

    @property
    def usable_I(self) -> NDArray[np.bool_]:
        return np.asarray(self.group_I >= 0)

    def select(self, rows: Sequence[int] | Ints) -> "Laid":
        """These pairs with the groups that they need, and of those the branches that they need."""
        rows_I = np.asarray(rows, np.int64)
        wanted: dict[int, dict[int, int]] = {}
        group_I, branch_SI = self.group_I[rows_I].copy(), self.branch_SI[:, rows_I].copy()
        place = {g: at for at, g in enumerate(dict.fromkeys(int(g) for g in group_I if g >= 0))}
        for at, g in enumerate(group_I):
            if g >= 0:
                known = wanted.setdefault(int(g), {})
                branch_SI[:, at] = [known.setdefault(int(b), len(known)) for b in branch_SI[:, at]]
                group_I[at] = place[int(g)]
        groups = [Group(self.groups[g].prefix, tuple(self.groups[g].branches[b] for b in wanted[g])) for g in place]
        more = (self.n_tokens_SI[:, rows_I], self.truncated_I[rows_I], [self.reason_I[row] for row in rows_I])
        return Laid(groups, group_I, branch_SI, *more)


class PairModel:
    """A model, its reference and the parameters `params` that may move: "lora" or a pattern of parameter names.

    `checkpoint` is a PEFT folder over `model`, which is then the reference with the adapter off, or the folder of whole
    weights beside the reference `model`. Of several adapters in one folder the first, "default", is read.
    """

    def __init__(
        self,
        model: str,
        checkpoint: str | None,
        *,
        params: str = LORA,
        max_length: int = 1024,
        batch_tokens: int = 8192,
    ) -> None:
        sizes: dict[str, Any] = {"max_length": max_length, "batch_tokens": batch_tokens}
        adapter = checkpoint if checkpoint is not None and is_adapter(checkpoint) else None
        whole = model if checkpoint is None or adapter else checkpoint
        self.held = CausalLM(CausalSettings(whole, adapter=adapter, **sizes))
        self.reference = CausalLM(CausalSettings(model, **sizes)) if whole != model else self.held
        if self.reference.template_hash != self.held.template_hash:
            raise ConfigError(
                f"{checkpoint} and {model} write the tokens of a conversation differently (template, vocabulary or special "
                "tokens): their log-probabilities are of different texts"
            )
        more = [f"adapter={model_hash(adapter)}"] if adapter else []
        self.model_hash = model_hash(whole, self.held.dtype, *more)
        self.reference_hash = model_hash(model, self.reference.dtype)
        self.template_hash = self.held.template_hash
        self.names, self.params = _chosen_params(self.held, params)

    @property
    def about(self) -> dict[str, Any]:
        names = self.names
        return {
            "model_hash": self.model_hash,
            "reference_hash": self.reference_hash,
            "template_hash": self.template_hash,
            "parameters": int(sum(p.numel() for p in self.params)),
            "tensors": len(names),
            "first": names[0],
            "computed": dict(self.held.about),
        }

    # -- tokens -------------------------------------------------------------------------------------------------------

    def lay(self, prompts: Sequence[Sequence[Message]], chosen: Sequence[Any], rejected: Sequence[Any]) -> Laid:
        """Pairs of message lists as tokens. A side is one turn of the assistant; another one is a reason."""
        size = len(prompts)
        laid = Laid(
            [],
            np.full(size, -1, np.int64),
            np.zeros((2, size), np.int64),
            np.zeros((2, size), np.int64),
            np.zeros(size, np.bool_),
            [None] * size,
        )
        asked: dict[str, list[int]] = {}
        for row, messages in enumerate(prompts):
            asked.setdefault(canonical_json(list(messages)), []).append(row)
        for rows in asked.values():
            said: dict[str, int] = {}
            texts = {}
            for row in rows:
                sides = [_text(side) for side in (chosen[row], rejected[row])]
                if None in sides:
                    laid.reason_I[row] = "side_is_not_one_turn"
                else:
                    texts[row] = [said.setdefault(str(text), len(said)) for text in sides]
            self._lay_prompt(laid, Answered(rows[0], list(prompts[rows[0]]), list(said)), texts)
        return laid

    def _lay_prompt(self, laid: Laid, ask: Answered, texts: dict[int, list[int]]) -> None:
        made = self.held.tokens(ask) if texts else ""
        for row, places in texts.items():
            if isinstance(made, str):
                laid.reason_I[row] = made
                continue
            branches = [made.branch[place] for place in places]
            laid.truncated_I[row] = any(made.truncated[place] for place in places)
            lacks = [b for b in branches if isinstance(b, str)]
            if lacks:
                laid.reason_I[row] = str(lacks[0])
            elif branches[0] == branches[1]:
                cut = laid.truncated_I[row]
                laid.reason_I[row] = "identical_after_truncation" if cut else "identical"
            else:
                laid.group_I[row] = len(laid.groups)
                laid.branch_SI[:, row] = branches
                laid.n_tokens_SI[:, row] = [made.group.branches[int(b)].n_tokens for b in branches]
        if not isinstance(made, str) and (laid.group_I == len(laid.groups)).any():
            laid.groups.append(made.group)

    # -- forward ------------------------------------------------------------------------------------------------------

    def logps(self, laid: Laid, *, reference: bool = False) -> Floats:
        """(2, I): log-probability of both sides of each pair, summed nats; nan where there is none."""
        out_SI = np.full((2, len(laid.group_I)), np.nan)
        if not laid.groups:
            return out_SI
        held = self.reference if reference else self.held
        told = held.score(laid.groups, adapter=not reference and held.adapted is not None)
        sums = [[np.nan if isinstance(logp_T, str) else float(logp_T.sum()) for logp_T in told_B] for told_B in told]
        for row in np.flatnonzero(laid.usable_I):
            branches = laid.branch_SI[:, row]
            out_SI[:, row] = [sums[laid.group_I[row]][branch] for branch in branches]
        return out_SI

    def gaps(self, laid: Laid, *, reference: bool = False) -> Floats:
        """log pi(chosen) - log pi(rejected) of each pair, shape (I,), nats."""
        chosen_I, rejected_I = self.logps(laid, reference=reference)
        return np.asarray(chosen_I - rejected_I)

    @contextmanager
    def moved(self, direction: Any, step: float) -> Iterator[None]:
        """The parameters at theta + step direction; theta is put back bit by bit."""
        import torch

        kept = [p.detach().clone() for p in self.params]
        try:
            with torch.no_grad():
                for p, along in zip(self.params, self.split(direction), strict=True):
                    p.copy_(p.to(along.dtype) + step * along)
            yield
        finally:
            with torch.no_grad():
                for p, old in zip(self.params, kept, strict=True):
                    p.copy_(old)

    # -- backward -----------------------------------------------------------------------------------------------------

    def gradient(self, laid: Laid, ref_I: Floats, *, beta: float, weight_WI: Floats) -> Any:
        """(W, P) on the device: for each row of weights, sum_i weight_i grad l(m_i) over the moving parameters."""
        import torch

        out = None
        for at in range(len(laid.groups)):
            rows = np.flatnonzero((laid.group_I == at) & (weight_WI != 0).any(axis=0))
            if not len(rows):
                continue
            logp_B = self._graph(laid.groups[at])
            loss_I = torch.stack([self._loss(logp_B, laid, row, ref_I, beta) for row in rows.tolist()])
            kinds, of_row = np.unique(weight_WI[:, rows], axis=1, return_inverse=True)
            for kind in range(kinds.shape[1]):
                mine = torch.as_tensor(np.flatnonzero(of_row == kind), device=loss_I.device)
                flat = self._flat(loss_I[mine].sum(), retain=kind + 1 < kinds.shape[1])
                out = flat.new_zeros(len(weight_WI), len(flat)) if out is None else out
                for w, weight in enumerate(kinds[:, kind]):
                    out[w].add_(flat, alpha=float(weight))
        if out is None:
            raise BackendError("no pair has tokens, so there is no gradient")
        return out

    def pair_gradients(
        self, laid: Laid, ref_I: Floats, *, beta: float, plain: bool = True
    ) -> Iterator[tuple[int, float, Any]]:
        """(pair, loss, flat gradient) of each usable pair by a backward pass of its own; `plain`: the definition."""
        for row in np.flatnonzero(laid.usable_I).tolist():
            logp_B = self._graph(laid.select([row]).groups[0], plain=plain)
            loss = self._loss(logp_B, laid.select([row]), 0, ref_I[row : row + 1], beta)
            yield row, float(loss.detach()), self._flat(loss)

    def _loss(self, logp_B: list[Any], laid: Laid, row: int, ref_I: Floats, beta: float) -> Any:
        import torch

        chosen, rejected = (logp_B[branch] for branch in laid.branch_SI[:, row])
        return torch.nn.functional.softplus(-beta * (chosen - rejected - float(ref_I[row])))

    def _flat(self, loss: Any, *, retain: bool = False) -> Any:
        import torch

        grads = torch.autograd.grad(loss, self.params, retain_graph=retain, allow_unused=True)
        wide = [torch.zeros_like(p) if g is None else g for g, p in zip(grads, self.params, strict=True)]
        return torch.cat([g.detach().flatten().to(torch.promote_types(g.dtype, torch.float32)) for g in wide])

    def split(self, flat: Any) -> list[Any]:
        """A flat vector in the shapes of the parameters."""
        parts = flat.split([p.numel() for p in self.params])
        return [part.view_as(p) for part, p in zip(parts, self.params, strict=True)]

    def _graph(self, group: Group, *, plain: bool = False) -> list[Any]:
        """Summed log-probability of each branch, with its graph."""
        held = self.held
        if not held._method:
            held.score([group], adapter=held.adapted is not None)  # chooses the method
        if plain or held._method != "shared":
            return [self._plain(group, at) for at in range(len(group.branches))]
        return self._shared(group)

    def _plain(self, group: Group, at: int) -> Any:
        held, branch = self.held, group.branches[at]
        whole, first = [*group.prefix, *branch.ids], len(group.prefix) + branch.skip
        kept = held.model.config._attn_implementation
        held.model.set_attn_implementation(held._usual_attention)
        try:
            logits_T = held.model(input_ids=held._tensor([whole]), use_cache=False).logits[0, first:-1]
        finally:
            held.model.set_attn_implementation(kept)
        return _picked(logits_T, held._tensor(whole[first + 1 :])).sum()

    def _shared(self, group: Group) -> list[Any]:
        import torch

        held = self.held
        kept: dict[int, tuple[Any, Any]] = {}
        told: dict[int, Any] = {}
        for slots in prefix.plan([group], held.budget):
            pack = prefix.lay_out([group], slots, kept, held.device)
            hidden = held.model.base_model(
                input_ids=held._tensor([pack.ids_T]),
                position_ids=held._tensor([pack.position_T]),
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=held.device),
                use_cache=False,
                pack=pack,
            ).last_hidden_state[0]
            target = held._tensor(pack.target_I)
            logp_I = _picked(self._logits(hidden[held._tensor(pack.read_I)], target), target)
            parts = logp_I.split([n for *_, n in pack.counts])
            told |= {branch: part.sum() for (_, branch, _), part in zip(pack.counts, parts, strict=True)}
        return [told[branch] for branch in range(len(group.branches))]

    def _logits(self, hidden_I: Any, target: Any) -> Any:
        """The model's own head on these states, as `CausalLM._read` does it."""
        model = self.held.model
        body = model.base_model_prefix
        kept, stand_in = getattr(model, body), _stand_in()
        stand_in.states = hidden_I[None]
        setattr(model, body, stand_in)
        try:
            return model(input_ids=target[None], use_cache=False).logits[0]
        finally:
            setattr(model, body, kept)


def is_adapter(checkpoint: str) -> bool:
    """Whether the folder holds a PEFT adapter and not whole weights."""
    return (Path(checkpoint).expanduser() / "adapter_config.json").is_file()


def _picked(logits_I: Any, target_I: Any) -> Any:
    import torch

    wide = logits_I.to(torch.promote_types(logits_I.dtype, torch.float32))
    return wide.gather(-1, target_I[:, None])[:, 0] - wide.logsumexp(-1)


def _text(side: Any) -> str | None:
    """The text of a side that is one turn of the assistant."""
    if isinstance(side, Sequence) and len(side) == 1 and side[0].get("role") == "assistant":
        text = side[0].get("content")
        return text if isinstance(text, str) else None
    return None


def _chosen_params(held: CausalLM, params: str) -> tuple[list[str], list[Any]]:
    """The parameters that move, with their names; ConfigError where there are none or where they cannot move anything."""
    import torch

    for p in held.model.parameters():
        p.requires_grad_(False)
    named = list(held.model.named_parameters())
    if params == LORA:
        found = [(name, p) for name, p in named if FACTOR.search(name)]
        if not found:
            raise ConfigError(
                "params = 'lora', and the model has no LoRA: name a PEFT folder, or give a pattern of parameter names "
                "such as 'layers\\.29\\.'"
            )
    else:
        try:
            found = [(name, p) for name, p in named if re.search(params, name)]
        except re.error as error:
            raise ConfigError(f"params = {params!r} is no pattern: {error}") from error
        if not found:
            raise ConfigError(f"no parameter's name matches {params!r}; there is for example {named[0][0]}")
    second = [p for name, p in named if re.search(r"\.lora_(embedding_)?B\.", name)]
    if second and all(not torch.count_nonzero(p) for p in second):
        raise ConfigError(
            "the adapter is at its initialisation (every B is 0): it changes nothing, and the gradients of A vanish. "
            "Influence is taken after a warm-up; train the adapter first"
        )
    for _, p in found:
        p.requires_grad_(True)
    return [name for name, _ in found], [p for _, p in found]
