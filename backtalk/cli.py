"""`backtalk …`: the command line."""

import click

from backtalk.commands import datasets, devices, inspection, models, people, safety, sources, stack
from backtalk.commands.frame import PlainGroup


@click.group(cls=PlainGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="backtalk")
def main() -> None:
    """Turns "that's wrong" into a better image classifier, safely, in seconds."""


main.add_command(stack.up)
main.add_command(stack.migrate)
main.add_command(stack.tensorboard)
main.add_command(models.models)
main.add_command(people.keys)
main.add_command(people.users)
main.add_command(models.policy)
main.add_command(datasets.dataset)
main.add_command(models.train)
main.add_command(models.promote)
main.add_command(models.rollback)
main.add_command(devices.export_device)
main.add_command(sources.reporters)
main.add_command(sources.retract)
main.add_command(sources.reviewers)
main.add_command(inspection.status)
main.add_command(inspection.verify)
main.add_command(inspection.audit)
main.add_command(safety.backup)
main.add_command(safety.restore)
main.add_command(stack.demo)


if __name__ == "__main__":
    main()
