"""The `fpt` command on LightningCLI: parses a command, builds datamodule, model and Trainer, and runs it."""

import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import lightning as L
from jsonargparse import set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

import fpt_lightning
from fpt_lightning.command_line.arguments import ArgumentParser
from fpt_lightning.command_line.defaults import (
    CALLBACK_DEFAULTS,
    CALLBACKS,
    DEFAULT_MONITOR,
    SWITCHES,
    TRAINER_DEFAULTS,
    commands,
    options_of_commands,
)
from fpt_lightning.command_line.help_page import asked_for, show_help
from fpt_lightning.command_line.noise import silence_what_no_user_can_mend
from fpt_lightning.command_line.option_checks import check_options, trainers_refusal
from fpt_lightning.command_line.words import with_configs_found
from fpt_lightning.data.datamodule import FPTDataModule
from fpt_lightning.data.spec import TaskSpec
from fpt_lightning.errors import DivergedError, FPTError, UsageError, first_line
from fpt_lightning.machine import visible_cores
from fpt_lightning.runs.baselines import baselines
from fpt_lightning.runs.claim import claim
from fpt_lightning.runs.finish import finish, leave_paused, own_wandb_run, untested_result, what_ran
from fpt_lightning.runs.folder import RunFolder, kept
from fpt_lightning.runs.resume import add_what_is_left, name_answers, way_on
from fpt_lightning.runs.saved_config import SaveRunConfig
from fpt_lightning.training.artifacts.checkpoint import ENCODING, read_checkpoint
from fpt_lightning.training.callbacks import PartsSummary, StopEarly
from fpt_lightning.training.choice import check_callback
from fpt_lightning.training.classification import FPTClassifier
from fpt_lightning.training.features import FeatureData
from fpt_lightning.training.language.pretraining import LanguageModel
from fpt_lightning.training.logger import RunLogger
from fpt_lightning.training.packs.replica import Replica
from fpt_lightning.training.trainer import FPTTrainer


class FPTCLI(LightningCLI):
    """Parses a command, builds datamodule, model and Trainer, and runs it.

    Args:
        words: What follows ``fpt`` on the command line.

    Raises:
        UsageError: If the command line or a config is wrong.
        FPTError: If data, backbone or checkpoint cannot be used.
    """

    trainer: FPTTrainer
    datamodule: FPTDataModule
    run_folder: RunFolder | None = None
    _refusal: Exception | None = None
    _encoding: dict[str, Any] = {}  # noqa: RUF012 - replaced, never changed

    def __init__(self, words: Sequence[str]) -> None:
        silence_what_no_user_can_mend()
        self._command, self._trains = words[0], words[0] in ("fit", "run")
        for name in fpt_lightning.__all__:
            getattr(fpt_lightning, name)  # imported, so that configs can name the tasks without their modules
        # linked as one object; jsonargparse would make a group of options of a dataclass
        set_parsing_settings(subclasses_enabled=[TaskSpec])
        with ExitStack() as self._held:
            try:
                super().__init__(
                    L.LightningModule,  # FPTClassifier by default
                    FPTDataModule,
                    subclass_mode_model=True,
                    subclass_mode_data=True,
                    trainer_class=FPTTrainer,
                    trainer_defaults=dict(TRAINER_DEFAULTS),
                    parser_class=ArgumentParser,
                    parser_kwargs={"prog": "fpt"},
                    save_config_callback=SaveRunConfig,
                    save_config_kwargs={"overwrite": True},
                    auto_configure_optimizers=False,
                    load_from_checkpoint_support=False,
                    args=with_configs_found(words),
                )
            except (KeyboardInterrupt, SystemExit, OSError) as stop:
                if self.run_folder is not None:
                    add_what_is_left(stop, self.run_folder)
                raise

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command that is asked for alone, since each parser takes a twentieth of a second to build."""
        return {self._command: commands()[self._command]}

    def add_default_arguments_to_parser(self, parser: ArgumentParser) -> None:  # type: ignore[override]
        # a number, never a random one, because data and model are linked to it
        parser.add_argument("--seed_everything", type=int, default=0, help="The seed of the run.")
        order_help = "Seed of the training data and its order, where it is not to be seed_everything."
        parser.add_argument("--data_seed", type=int | None, default=None, help=order_help)

    def add_arguments_to_parser(self, parser: ArgumentParser) -> None:  # type: ignore[override]
        """Adds the named callbacks, and links what no config should have to repeat."""
        parser.elsewhere = frozenset(options_of_commands())
        parser.add_run_options()
        for name, callback in CALLBACKS.items():
            parser.add_lightning_class_args(callback, name)
        parser.set_defaults(dict(CALLBACK_DEFAULTS))
        parser.set_defaults({"model": {"class_path": f"{FPTClassifier.__module__}.{FPTClassifier.__name__}"}})
        parser.link_arguments("data.task", "model.init_args.task", apply_on="instantiate")
        parser.link_arguments(("data_seed", "seed_everything"), "data.init_args.seed", compute_fn=_first_given)
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.add_optimizer_options()

    def parse_arguments(self, parser: ArgumentParser, args: list[str]) -> None:  # type: ignore[override]
        """Parses the words given; unlike Lightning's it does not mind that the process has words of its own."""
        group, words = asked_for(args)
        if group is not None:
            show_help(self._command, parser, self._parser(self._command), group, words)
        self.config = parser.parse_args(["--help" if word == "--help-all" else word for word in args])
        check_options(self.config[self.config.subcommand].as_dict(), {"trainer": FPTTrainer, **CALLBACKS})

    def _parse_ckpt_path(self) -> None:
        """Leaves the config as it is: it decides, and the checkpoint is compared with the model when it is loaded."""

    def before_instantiate_classes(self) -> None:
        """Checks what no single class can see."""
        config = self.config[self.subcommand]
        if not self._trains:
            self.save_config_callback = None
            warnings.filterwarnings("ignore", "The dirpath has changed")  # nothing is saved
        if "ckpt_path" in config:
            config.ckpt_path = way_on(config, trains=self._trains)
            if config.ckpt_path is not None and self.subcommand in ("validate", "test", "predict"):
                self._encoding = read_checkpoint(config.ckpt_path).get(ENCODING, {})
                name_answers(config)
        trainer = config.trainer
        interval = trainer.val_check_interval  # None, or a time, where it is no number of steps
        batches = trainer.max_steps * trainer.accumulate_grad_batches
        if isinstance(interval, int | float) and 0 < batches < interval:
            trainer.val_check_interval = batches  # the end of a short run is validated too
        if self.subcommand == "prepare":
            config.model = None

    def instantiate_classes(self) -> None:
        """Builds datamodule, model and Trainer; what they say of wrong input comes through as they said it."""
        self.parser.add_instantiator(self._instantiate, object)
        try:
            super().instantiate_classes()
            cached = self._trains and self._get(self.config, "cache_features", default=False)  # others read data once
            if cached and isinstance(self.model, FPTClassifier):
                self.datamodule = FeatureData(self.datamodule, self.model)
        except (ValueError, TypeError):  # in which jsonargparse buries whatever a class raises
            if self._refusal is not None:
                raise self._refusal from None
            raise

    def _instantiate(self, class_type: type[Any], *args: Any, **kwargs: Any) -> Any:
        try:
            built = class_type(*args, **kwargs)
            if isinstance(built, FPTDataModule) and self.subcommand in ("validate", "test", "predict"):
                built.use_encoding(self._encoding)  # before the model asks for the sizes
            return built
        except FPTError as error:
            self._refusal = error
            raise
        except ImportError as error:
            self._refusal = FPTError(f"{class_type.__name__} needs a package that is missing: {error}")
            raise
        except (MisconfigurationException, ValueError, TypeError) as error:
            # what others say of their options; what ours raise is a bug, and shown as it is
            ours = class_type.__module__.partition(".")[0] == fpt_lightning.__name__
            self._refusal = error if ours else UsageError(f"{class_type.__name__}: {first_line(error)}")
            raise ValueError(str(error)) from error

    def instantiate_trainer(self, **kwargs: Any) -> FPTTrainer:
        """Builds the Trainer; `fit` and `run` get a run folder with its loggers."""
        callback_keys = self._parser(self.subcommand).callback_keys
        trainer = self._get(self.config_init, "trainer")
        for key, flag in SWITCHES.items():
            if trainer[flag] is False and key in callback_keys:
                callback_keys.remove(key)
        self._watch_the_tasks_metric()
        if self.subcommand == "prepare":
            return FPTTrainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        trainer.callbacks = [*_as_list(trainer.callbacks), PartsSummary()]
        if self._trains and not trainer.fast_dev_run:
            self._use_run_folder(trainer)
        else:
            trainer.logger = False
        try:
            built = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, ImportError, RuntimeError) as error:
            raise trainers_refusal(error) from error
        assert isinstance(built, FPTTrainer)
        if isinstance(built.accelerator, CPUAccelerator) and built.num_devices > max(8, visible_cores()):
            raise UsageError(f"trainer.devices {built.num_devices}: this machine has {visible_cores()} cores")
        return built

    def _run_subcommand(self, subcommand: str) -> None:
        try:
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise UsageError(f"trainer: {first_line(error)}") from error

    def run(self, **kwargs: Any) -> None:
        """Runs the Trainer's `run` and leaves result, learning curve and exported parts in the run folder."""
        self.conclude(self.trainer, kwargs)

    def conclude(self, trainer: FPTTrainer | Replica, kwargs: dict[str, Any], **more: Any) -> None:
        """Leaves the result of what a Trainer, or a pack, runs; ``more`` goes into it.

        Raises:
            DivergedError: If the run did, which its result then says.
            UsageError: If the command leaves none.
        """
        if self.run_folder is None:
            raise UsageError("fpt run writes a result, which trainer.fast_dev_run forbids: use fpt fit for a trial")
        if not isinstance(self.model, FPTClassifier | LanguageModel):
            raise UsageError(
                f"fpt run writes the result of a task, which {type(self.model).__name__} is not: use fpt fit"
            )
        trained = untested_result(self.run_folder, kwargs["ckpt_path"]) if kwargs["test"] == "only" else {}
        seed = self._get(self.config, "seed_everything")
        named = self.model, self.datamodule, self.trainer, seed, kwargs["arm"], kwargs["protocol"]
        try:
            measured = trainer.run(**kwargs)
        except DivergedError as error:
            if self.trainer.is_global_zero:
                diverged = {**what_ran(*named), **more, **trainer.cost(), "diverged_step": error.step}
                self.run_folder.write_result(diverged, status="diverged")
            raise
        if (step := self.trainer.pause.step) is not None:
            if self.trainer.is_global_zero:
                leave_paused(self.run_folder, step)
        elif self.trainer.is_global_zero:
            result = trained or what_ran(*named) | more
            self.run_folder.write_result(result := {**result, **measured})  # whole before what stands beside it
            if not trained and kwargs["baselines"] and isinstance(self.model, FPTClassifier):
                result["baselines"] = baselines(self.datamodule)
            finish(self.run_folder, result, self.model)

    def prepare(self, **kwargs: Any) -> None:
        self.trainer.prepare(**kwargs)
        print("\n".join(self.datamodule.describe()))

    def _watch_the_tasks_metric(self) -> None:
        """Replaces a default monitor that the task has no metric for: a regression has no accuracy.

        Raises:
            UsageError: If a callback watches a figure that there will not be, or cannot name its file.
        """
        for key in ("checkpoint", "last_checkpoint", "early_stopping"):
            callback: ModelCheckpoint | StopEarly = self._get(self.config_init, key)
            if callback.monitor == DEFAULT_MONITOR:
                callback.monitor = f"val_{self.datamodule.task.metric}"
            check_callback(key, callback, self.model)
        for callback in _as_list(self._get(self.config_init, "trainer").callbacks):
            check_callback("trainer.callbacks", callback, self.model)

    def _use_run_folder(self, trainer: Any) -> None:
        config = self.config[self.subcommand]
        tests_only = self.subcommand == "run" and config.test == "only"
        claimed = claim(
            self.datamodule.task.name, config.run_folder, config.ckpt_path, overwrite=config.overwrite,
            tests_only=tests_only, files=kept(config), first=getattr(rank_zero_only, "rank", 0) == 0,
        )  # fmt: skip
        self.run_folder = self._held.enter_context(claimed)
        self._held.enter_context(own_wandb_run())
        self.save_config_kwargs["begin"] = self.run_folder.begin
        trainer.default_root_dir = str(self.run_folder.path)
        for key, word in (("checkpoint", "best"), ("last_checkpoint", "last")):
            callback: ModelCheckpoint = self._get(self.config_init, key)
            callback.filename = callback.filename or word  # where every other command looks
            if callback.dirpath is None:
                callback.dirpath = str(self.run_folder.checkpoints.absolute())
        own: list[Logger] = [RunLogger(self.run_folder.path)]
        if trainer.logger is None or trainer.logger is True:
            own.append(TensorBoardLogger(self.run_folder.path, name="", version="", sub_dir="tensorboard"))
        trainer.logger = own + ([] if isinstance(trainer.logger, bool) else _as_list(trainer.logger))
        if tests_only:
            trainer.logger = False  # a test alone logs at step 0, before everything that is there
        rank_zero_info(f"run folder: {self.run_folder.path}")


def _first_given(seed: int | None, otherwise: int) -> int:
    return otherwise if seed is None else seed


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
