"""The attacks that come with tamnas, one a line: importing this module registers them. Needs no torch."""

from tamnas.attacks.attack import AnyAttack as AnyAttack
from tamnas.attacks.attack import Attack as Attack
from tamnas.attacks.attack import Pgd as Pgd
from tamnas.attacks.attack import register as register
