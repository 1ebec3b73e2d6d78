"""`python -m training …`: from a folder of X-rays to a release."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from app.errors import CovidXrayError
from app.release import Precision, open_release
from training import stages
from training.config import load_config
from training.crossval import cross_validate, table
from training.errors import WorkerLost
from training.listing import written
from training.model import build, set_trainable
from training.model import summary as describe
from training.report import report
from training.run import Run
from training.workers import chief_first, join, leave

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)

Data = Annotated[Path, typer.Option(help="Folders named by label, or a folder with an index.csv.")]
RECIPE = typer.Option("--config", help="The recipe, a TOML file.")
Recipe = Annotated[Path, RECIPE]
Out = Annotated[Path, typer.Option(help="The store that the release is put into.")]
Work = Annotated[
    Path | None,
    typer.Option(help="Where the run keeps its state, to go on with it; runs/<recipe> by default."),
]
Backbone = Annotated[
    str | None,
    typer.Option(help="imagenet, none, or a Keras weights file; the recipe's where not given."),
]
ContinueFrom = Annotated[
    Path | None,
    typer.Option(help="A release that was made by the recipe's first stages; go on after them."),
]

Folds = Annotated[int, typer.Option(min=3, help="Each is kept out once.")]
ReportFile = Annotated[
    Path | None,
    typer.Option("--out", help="The report, JSON; in the run's work folder by default."),
]


Control = Annotated[
    Path | None,
    typer.Option(
        help="To be told on the card as a control: a run's work folder, or a release that tells it."
    ),
]
FoldsReport = Annotated[
    Path | None, typer.Option(help="Report of a cross-validation to be told on the card.")
]


@app.command()
def run(  # noqa: PLR0913, PLR0917 -- options of a command
    data: Data,
    config: Recipe,
    out: Out,
    work: Work = None,
    backbone: Backbone = None,
    continue_from: ContinueFrom = None,
) -> None:
    """Do everything: scan, fit, export, evaluate, model card. Goes on where it was stopped.

    With TF_CONFIG the machines that it names fit together; the chief does all else.
    """
    workers = join()
    with chief_first(workers):
        this = _open(data, config, work, backbone)
        stages.scan(this)
    stages.fit(this, continue_from, workers)
    if workers and not workers.chief:
        return
    stages.export(this)
    stages.evaluate(this)
    typer.echo(f"The release is {stages.card(this, out)}")


@app.command()
def remeasure(  # noqa: PLR0913, PLR0917 -- options of a command
    release: Annotated[Path, typer.Option(help="The release.")],
    data: Data,
    config: Recipe,
    out: Out,
    work: Work = None,
    control: Control = None,
    folds: FoldsReport = None,
) -> None:
    """Measure a release's network anew and publish it as the next version, with another card.

    Nothing is trained or exported: its files stay as they are, and so do threshold and scaling.
    """
    backbone = open_release(release).manifest.training.backbone
    this = _open(data, config, work or Path("runs") / f"{config.stem}-remeasured", backbone)
    stages.scan(this)
    stages.take_over(this, release)
    stages.evaluate(this)
    typer.echo(f"The release is {stages.card(this, out, control, folds)}")


@app.command()
def scan(data: Data, config: Recipe, work: Work = None, backbone: Backbone = None) -> None:
    """Read, deduplicate, group and split the X-rays."""
    stages.scan(_open(data, config, work, backbone))


@app.command()
def fit(
    data: Data,
    config: Recipe,
    work: Work = None,
    backbone: Backbone = None,
    continue_from: ContinueFrom = None,
) -> None:
    """Train every stage of the recipe, from where it stopped; on all machines of TF_CONFIG."""
    workers = join()
    with chief_first(workers):
        this = _open(data, config, work, backbone)
    stages.fit(this, continue_from, workers)


@app.command()
def export(data: Data, config: Recipe, work: Work = None, backbone: Backbone = None) -> None:
    """Calibrate on the validation split and write the SavedModel."""
    stages.export(_open(data, config, work, backbone))


@app.command()
def evaluate(  # noqa: PLR0913, PLR0917 -- options of a command
    data: Data,
    config: Annotated[Path | None, RECIPE] = None,
    work: Work = None,
    backbone: Backbone = None,
    release: Annotated[
        Path | None, typer.Option(help="Measure this release instead, on all that is in DATA.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="With --release: the report's new folder; runs/on-<data> by default."),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="With --release: also compare the answers in it with those in f32."),
    ] = None,
) -> None:
    """Measure a run's SavedModel on its splits; with --release, a release on any other folder."""
    if release:
        place = out or Path("runs") / f"on-{data.resolve().name}"
        file = report(release, data, place, precision)
        typer.echo(f"The report is {written(file)}")
    elif config:
        stages.evaluate(_open(data, config, work, backbone))
    else:
        raise typer.BadParameter("expected --config, or --release; received neither")


@app.command()
def crossval(  # noqa: PLR0913, PLR0917 -- options of a command
    data: Data,
    config: Recipe,
    folds: Folds = 5,
    work: Work = None,
    backbone: Backbone = None,
    out: ReportFile = None,
) -> None:
    """Measure the recipe on every fold, fitted on the others. Goes on where it was stopped."""
    this = _open(data, config, work, backbone)
    file = out or this.folder / "crossval" / f"{folds}-folds.json"
    for line in table(cross_validate(this, folds, file)):
        typer.echo(line)
    typer.echo(f"The report is {file}")


@app.command()
def card(  # noqa: PLR0913, PLR0917 -- options of a command
    data: Data,
    config: Recipe,
    out: Out,
    work: Work = None,
    backbone: Backbone = None,
    control: Control = None,
    folds: FoldsReport = None,
) -> None:
    """Write manifest and model card, and put the release into the store."""
    path = stages.card(_open(data, config, work, backbone), out, control, folds)
    typer.echo(f"The release is {path}")


@app.command()
def summary(config: Recipe, backbone: Backbone = None, stage: int = 1) -> None:
    """Print the network, and each layer's index, name, output shape and whether it trains."""
    recipe = load_config(config)
    recipe = recipe.with_backbone(backbone or recipe.backbone)
    if not 1 <= stage <= len(recipe.stages):
        raise typer.BadParameter(
            f"expected a stage from 1 to {len(recipe.stages)}; received {stage}"
        )
    chosen = recipe.stages[stage - 1]
    # What is printed does not depend on the weights, so none are downloaded.
    network = build(len(recipe.data.labels), "none", chosen.size)
    set_trainable(network, chosen.train_from, chosen.batch_norm)
    for line in describe(network):
        typer.echo(line)


def _open(data: Path, config: Path, work: Path | None, backbone: str | None) -> Run:
    recipe = load_config(config)
    this = Run(
        folder=work or Path("runs") / config.stem,
        config=recipe.with_backbone(backbone or recipe.backbone),
        recipe=config,
        data=data,
    )
    this.record()
    return this


def main() -> None:
    """Run the command; an error that has a sentence ends with it and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        app()
    except WorkerLost as error:
        leave(error)
    except CovidXrayError as error:
        sys.exit(f"training: {error}")


if __name__ == "__main__":
    main()
