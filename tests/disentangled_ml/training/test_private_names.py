"""What is used of Lightning beyond its public names: where it moves, this says so before a rank hangs."""

import pytorch_lightning as pl

from disentangled_ml.training import ranks


def test_lightning_still_has_what_the_launcher_of_ranks_and_preemption_replace():
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    launcher = trainer.strategy._launcher
    assert type(launcher) is ranks._SubprocessScriptLauncher
    assert trainer.strategy.launcher is launcher
    assert callable(launcher._call_children_scripts)
    assert callable(launcher.kill)
    assert callable(ranks._set_num_threads_if_needed)
    assert callable(trainer._signal_connector.register_signal_handlers)
    assert (launcher.procs, launcher.num_processes, launcher.num_nodes) == ([], 2, 1)
    ranks.watch_ranks(trainer, "go on", wanted=ZeroDivisionError)
    assert isinstance(trainer.strategy.launcher, ranks.RankLauncher)
