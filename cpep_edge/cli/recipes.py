"""`cpep-edge recipes`: list the training recipes, and show every key of one."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cpep_edge.cli.output import print_json, stdout

app = typer.Typer(help="List training recipes, their variants, and all their settings.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command("list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes and variants that ship with cpep-edge."""
    from cpep_train.recipe import shipped_recipes, shipped_variants

    kinds = {"recipes": shipped_recipes(), "variants": shipped_variants()}
    told = {
        kind: {name: file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, file in sorted(of.items())}
        for kind, of in kinds.items()
    }
    if as_json:
        print_json(told)
        return
    for kind, of in told.items():
        stdout.print(kind, style="bold")
        for name, text in of.items():
            stdout.print(f"  {name:<18} {text}", markup=False, soft_wrap=True)
    stdout.print("add a variant to a recipe with a plus sign: cpep-edge train demo+augmented --data CORPUS --out RUN")


@app.command()
def show(
    recipe: Annotated[
        str, typer.Argument(help="Recipe by path or name, with variants; default: show the settings alone.")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Override a recipe setting: section.key=value.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every setting: type, default, meaning, and its value in a recipe."""
    from cpep_train.recipe import Recipe, load_recipe
    from cpep_train.recipe_keys import keys_of

    values = load_recipe(recipe, settings or []).model_dump(mode="json") if recipe else {}
    rows = [{**asdict(key), **({"value": _at(values, key.name)} if recipe else {})} for key in keys_of(Recipe)]
    if as_json:
        print_json({"recipe": recipe, "keys": rows})
        return
    for row in rows:
        value = f" = {row['value']!r}" if recipe else ""
        default = f", default {row['default']}" if row["default"] else ""
        stdout.print(f"{row['name']}{value}", style="bold", markup=False, soft_wrap=True)
        stdout.print(f"    {row['kind']}{default}: {row['meaning']}", markup=False, soft_wrap=True)


def _at(values: dict[str, Any], key: str) -> Any:
    """The value of a key in a recipe; None if the recipe lacks the key or its table."""
    found: Any = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
