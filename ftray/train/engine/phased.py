"""Builds a new DeepSpeed engine for each phase of training.

DeepSpeed reads requires_grad only when it is initialized, so unfreezing a parameter later has no
effect and raises no error. Each phase therefore has its own engine, built after the model was
frozen for this phase. Parameters that train in both phases keep their moments and update counts.
"""

from __future__ import annotations

import gc

import torch

from ftray.data.batches import BatchPlan
from ftray.errors import NotTrainable
from ftray.models.inference.rounding import round_weights
from ftray.models.structure.blocks import FreezePlan
from ftray.models.structure.flops import flop_per_token
from ftray.models.structure.shared_parameters import own
from ftray.spec.sections.training import TrainSpec
from ftray.train.distributed.context import DistContext
from ftray.train.engine import deepspeed_state, state
from ftray.train.engine.deepspeed import Engine, TrainedModule, rounds_weights
from ftray.train.engine.deepspeed_config import deepspeed_config, require_disk
from ftray.train.engine.optimizer import parameter_groups
from ftray.train.engine.phases import Phase, index_at
from ftray.train.engine.state import ALL, Share, State
from ftray.train.engine.step_timer import StepTimer
from ftray.train.plan import Trainee


class PhasedEngine:
    """The engine of the current phase. The first call of `enter` builds the first engine."""

    def __init__(
        self, trainee: Trainee, spec: TrainSpec, batches: BatchPlan, ranks: DistContext
    ) -> None:
        """Raises SpecError if a DeepSpeed JSON contradicts the spec, ClusterError if a node lacks
        the libraries for offload to NVMe."""
        self.model = trainee.model
        self.ranks = ranks
        self.whole = trainee.plan
        self.flop_per_token = 0
        """FLOP of a step of the current phase for a token."""
        self._spec = spec
        own(self.model, self.whole.trainable)
        accumulation = batches.accumulation_steps(ranks.world)
        self._config = deepspeed_config(spec, batches.micro_batch_size, accumulation, ranks.world)
        require_disk(self._config, ranks)
        self._rounded = self._round()
        self._replay = trainee.replay
        self._task = trainee.task
        self._timer = StepTimer.on(ranks.device)
        self._index = -1
        self._engine: Engine | None = None
        self._left = State()
        self._unfrozen: dict[str, torch.Tensor] = {}

    def _round(self) -> set[str]:
        """Round the matrices that never train to the precision that computes with them; returns
        their names."""
        if not rounds_weights(self._spec, self.whole.autocast):
            return set()
        return round_weights(self.model, torch.bfloat16, but=self.whole.trainable)

    @property
    def engine(self) -> Engine:
        assert self._engine is not None, "no phase was entered"
        return self._engine

    @property
    def plan(self) -> FreezePlan:
        return self.whole.parts[self._index]

    @property
    def phase(self) -> Phase:
        return self.whole.phases[self._index]

    def enter(self, epoch: int, resumed: State | None = None) -> bool:
        """Switch to the engine of the phase that `epoch` belongs to; returns whether the engine is
        new. `resumed`: the checkpoint state for the first engine."""
        index = index_at(self.whole.phases, epoch)
        if index == self._index:
            return False
        before = resumed
        if self._engine is not None:
            before = self._take(ALL)
            self._leave()
        self._index = index
        self._build(before or State())
        return True

    def leave(self) -> None:
        """Close the engine. The next call of `enter` builds the first engine anew."""
        self._leave()
        self._index = -1

    def snapshot(self, share: Share) -> State:
        """Return this rank's share of the state of all parameters trained so far. Every rank must
        call this method."""
        return self._take(share)

    def check_moved(self) -> None:
        """Raise NotTrainable if the first update of a phase changed none of the parameters that the
        phase unfroze. Later calls in the phase do nothing."""
        if not self._unfrozen:
            return
        before, self._unfrozen = self._unfrozen, {}
        now = self._take(ALL).parameters
        if all(torch.equal(now[name], value) for name, value in before.items()):
            raise NotTrainable.of(
                "train.unfreeze",
                None,
                f"{len(before)} parameters were unfrozen and did not move, {next(iter(before))} "
                "among them",
                "report this with the spec: it is a fault of ftray or DeepSpeed",
            )

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _take(self, share: Share) -> State:
        taken = state.take(self.engine, share)
        left = self._left if share.count and share.part == 0 else State()
        return State(
            {**left.parameters, **taken.parameters},
            taken.moments,
            taken.ages,
            {**left.buffers, **taken.buffers},
        )

    def _leave(self) -> None:
        self.engine.close()
        self._engine = None
        gc.collect()  # a DeepSpeed engine that has ended holds its tensors in a cycle of references
        deepspeed_state.make_whole(self.model)

    def _build(self, before: State) -> None:
        state.load_values(self.model, before.values)
        trainable = set(self.plan.trainable)
        module = TrainedModule(self.model, self._task, self.plan, self.whole.autocast, self._replay)
        self.flop_per_token = flop_per_token(self.model, self.plan)
        groups = parameter_groups(
            ((n, p) for n, p in self.model.named_parameters() if n in trainable),
            self._spec,
            self.whole.depths,
            before.ages,
            self.phase.rate,
        )
        first = self._index == 0 or not before.parameters
        self._unfrozen = {} if first else self._values(trainable - before.parameters.keys())
        left = {n: v for n, v in before.parameters.items() if n not in trainable}
        self._left = State(left, buffers=before.buffers)
        self._engine = Engine(
            module, groups, self._spec, self._config, self.ranks, self._timer, self._rounded
        )
        if before.parameters:
            state.put(self._engine, before)

    def _values(self, names: set[str]) -> dict[str, torch.Tensor]:
        parameters = self.model.named_parameters()
        return {n: p.detach().cpu().float().clone() for n, p in parameters if n in names}
