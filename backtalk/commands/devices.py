"""`export-device`: a version as one file that a device runs by itself."""

from pathlib import Path

import click

from backtalk.callers import CLI
from backtalk.commands.frame import home_option, open_system
from backtalk.states import DeviceForm


@click.command("export-device")
@click.argument("name")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--version", "number", type=click.IntRange(min=1), help="The live one if not given.")
@click.option(
    "--form", default=str(DeviceForm.FLOAT32), show_default=True, help="float32, float16, dynamic or int8."
)
@home_option
def export_device(name: str, out: Path, number: int | None, form: str, home: Path | None) -> None:
    """Write a version of model NAME into OUT, a file or a folder: labels inside, checked against what serves.

    See docs/devices.md.
    """
    from backtalk import devicefiles

    wanted = devicefiles.parse_form(form)
    with open_system(home, "export-device") as system:
        written = devicefiles.export_file(
            system, model_name=name, number=number, form=wanted, out=out, caller=CLI
        )
    checked = written.checked
    click.echo(
        f"{written.path}: {written.byte_size:,} bytes, SHA-256 {written.sha256}. The same label as here for "
        f"{checked['same_label']:.1%} of {checked['n']} golden images; a score differs by "
        f"{checked['max_abs_diff']:.1e} at most."
    )
