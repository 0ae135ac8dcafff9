"""Our own tasks on local pages: what is wanted follows from the seed, the reward from the page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

PAGES = Path(__file__).parent / "pages"
_NAMES = (
    "Ada Moss", "Ben Hart", "Cleo Nash", "Dan Wolf", "Eve Stone", "Finn Gray", "Gwen Lake",
    "Hugo Reed", "Iris Vale", "Jack Ford", "Kira Dunn", "Liam West",
)  # fmt: skip
_CITIES = ("Bergen", "Lyon", "Porto", "Turin")
_TEAMS = ("Sales", "Design", "Support")
_COUNTRIES = ("Chile", "Ghana", "Japan", "Norway", "Peru")
_PLANS = ("Free", "Basic", "Pro")
_SETTINGS = ("Dark mode", "Sounds", "Spell check", "Backups", "Location", "Animations")
_COLORS = ("red", "blue", "green")
_SHELVES = {
    "Kitchen": ("mug", "bowl", "kettle"),
    "Garden": ("rake", "bucket", "hose"),
    "Office": ("pen", "lamp", "stapler"),
}


@dataclass(frozen=True)
class Wanted:
    """A task: `data` is what its pages are made of, `result` what they must hold in the end."""

    goal: str
    page: str
    data: Mapping[str, Any]
    result: Mapping[str, Any]

    def score(self, result: Mapping[str, Any]) -> float:
        """The share of what is wanted that was done: 1 is all of it."""
        right = len([name for name, value in self.result.items() if result.get(name) == value])
        return right / len(self.result)


def _form(random: Random) -> Wanted:
    name = random.choice(_NAMES)
    first, last = name.lower().split()
    wanted = {
        "name": name,
        "email": f"{first}.{last}{random.randint(1, 99)}@example.org",
        "country": random.choice(_COUNTRIES),
        "plan": random.choice(_PLANS),
        "news": random.random() < 0.5,
    }
    goal = (
        f'Sign up: name "{name}", e-mail "{wanted["email"]}", country {wanted["country"]}, '
        f"plan {wanted['plan']}, {'with' if wanted['news'] else 'without'} newsletter. Then send."
    )
    return Wanted(goal, "form.html", {"countries": _COUNTRIES, "plans": _PLANS}, wanted)


def _table(random: Random) -> Wanted:
    pairs = [(city, team) for city in _CITIES for team in _TEAMS]
    places = random.sample(pairs, 6)
    people = [
        {"name": name, "city": city, "team": team, "age": random.randint(20, 64)}
        for name, (city, team) in zip(random.sample(_NAMES, 6), places, strict=True)
    ]
    one = random.choice(people)
    if random.random() < 0.5:
        goal = f"Pick the person of the {one['team']} team in {one['city']}."
    else:
        one = max(people, key=lambda person: (int(str(person["age"])), person["name"]))
        others = [person for person in people if person is not one]
        one["age"] = max(int(str(person["age"])) for person in others) + 1
        goal = "Pick the oldest person."
    return Wanted(goal, "table.html", {"people": people}, {"picked": one["name"]})


def _settings(random: Random) -> Wanted:
    settings = {name: random.random() < 0.5 for name in _SETTINGS}
    changed = random.sample(_SETTINGS, random.randint(1, 3))
    wanted = {name: value != (name in changed) for name, value in settings.items()}
    parts = [f"turn {'on' if wanted[name] else 'off'} {name}" for name in changed]
    goal = f"{', '.join(parts)}. Leave the others as they are, and save."
    return Wanted(goal[0].upper() + goal[1:], "settings.html", {"settings": settings}, wanted)


def _shop(random: Random) -> Wanted:
    products = [
        {
            "id": f"p{number}",
            "shelf": shelf,
            "name": name,
            "price": random.randint(2, 60),
            "colors": random.sample(_COLORS, 3),
        }
        for number, (shelf, name) in enumerate(
            (shelf, name) for shelf, names in _SHELVES.items() for name in names
        )
    ]
    product, color = random.choice(products), random.choice(_COLORS)
    goal = f"Order one {color} {product['name']} ({product['shelf']}) and nothing else."
    ordered = [{"name": product["name"], "color": color}]
    return Wanted(goal, "shop.html", {"products": products}, {"ordered": ordered})


TASKS = {"form": _form, "table": _table, "settings": _settings, "shop": _shop}


def wanted(name: str, seed: int) -> Wanted:
    """The task with this seed."""
    return TASKS[name](Random(f"{name}/{seed}"))


def script(task: Wanted) -> str:
    """What its pages find."""
    return f"const TASK = {json.dumps(dict(task.data))};"
