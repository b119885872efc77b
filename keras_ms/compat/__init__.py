"""Import paths of before lead to where the modules are now, with a DeprecationWarning."""

import importlib
import importlib.abc
import importlib.util
import sys
import warnings
from types import ModuleType
from typing import Any

# below keras_ms: where a module was, and where it is
MOVED = {
    "distance_weighting": "weighting",
    "triplets": "losses.triplet",
    "whole_batch_weighting": "weighting",
    "class_hierarchy": "htl.hierarchy",
    "class_tree": "htl.class_tree",
    "closed_form": "pairs.closed_form",
    "command_words": "terminal.command_words",
    "convert_command": "cli.convert_weights",
    "curriculum_command": "cli.curriculum",
    "curriculum_page": "report.curriculum_page",
    "data.archives": "data.sets.archives",
    "data.benchmarks": "data.sets.benchmarks",
    "data.cars": "data.sets.cars",
    "data.csv_list": "data.sets.csv_list",
    "data.cub": "data.sets.cub",
    "data.curriculum": "curriculum.subsets",
    "data.curriculum_batches": "curriculum.batches",
    "data.curriculum_table": "curriculum.table",
    "data.glyph_style": "data.sets.glyph_style",
    "data.glyphs": "data.sets.glyphs",
    "data.grocery": "data.sets.grocery",
    "data.image_cache": "data.images",
    "data.in_shop": "data.sets.in_shop",
    "data.label_noise": "curriculum.label_noise",
    "data.neighbour_batches": "htl.batches",
    "data.neighbour_indices": "htl.batches",
    "data.omniglot": "data.sets.omniglot",
    "data.prepared_datasets": "data.sets.prepared_datasets",
    "data.products": "data.sets.sop",
    "data.rotated_classes": "data.sets.rotated_classes",
    "data.subset_density": "curriculum.density",
    "embed": "export.embedder",
    "evaluate_command": "cli.evaluate",
    "exact_labels": "pairs.labels",
    "evaluation.tiles": "evaluation.device_counts",
    "features": "models.features",
    "html_report": "report",
    "html_report.charts": "report.charts",
    "html_report.choice_section": "report.choice_section",
    "html_report.contents": "report.contents",
    "html_report.document": "report.document",
    "html_report.embedding_map": "report.embedding_map",
    "html_report.gallery": "report.gallery",
    "html_report.map_section": "report.map_section",
    "html_report.markup": "report.markup",
    "html_report.page": "report.page",
    "html_report.pair_sweep": "report.pair_sweep",
    "html_report.pictures": "report.pictures",
    "html_report.sections": "report.sections",
    "image_options": "cli.image_options",
    "losses.hierarchical_triplet": "htl.loss",
    "models.hardened_tuples": "hdml.tuples",
    "models.hardness_aware": "hdml.formulas",
    "models.hdml": "hdml.model",
    "models.hdml_parts": "hdml.networks",
    "models.hdml_picture": "hdml.picture",
    "models.hdml_step": "hdml.step",
    "named_losses": "run.losses",
    "pair_statistics": "losses.pair_weights",
    "pairwise": "pairs.pairwise",
    "positives": "pairs.positives",
    "progress": "terminal.progress",
    "quiet_start": "terminal.start",
    "rebuild_class_tree": "htl.callback",
    "replicas": "pairs.replicas",
    "report_command": "cli.report",
    "run.terminal": "terminal.streams",
    "run_data": "run.data",
    "run_facts": "run.facts",
    "run_folder": "run.folder",
    "run_model": "run.model",
    "run_report": "run.report",
    "setting_checks": "run.settings.checks",
    "setting_defaults": "run.settings.defaults",
    "setting_options": "cli.setting_options",
    "settings": "run.settings",
    "stage_schedule": "optimizers",
    "training": "run.training",
    "tree_picture": "htl.picture",
    "weight_picture": "report.weight_picture",
    "whole_files": "files",
    "whole_number": "arguments",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of `MOVED`: each is the module at its new place, not a copy of it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        package, _, name = fullname.partition(".")
        # a module `settings` or `training` of the user's own is not ours
        if package != "keras_ms" or name not in MOVED:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        before = module.__name__
        now = f"keras_ms.{MOVED[before.removeprefix('keras_ms.')]}"
        warnings.warn(
            f"{before} is now {now}; the old path goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        sys.modules[before] = importlib.import_module(now)


def find_moved_modules() -> None:
    """Makes the old paths importable, once."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        # first: a folder that has moved would find its modules again, as copies
        sys.meta_path.insert(0, MovedModules())
