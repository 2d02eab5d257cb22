"""The attacks that come with tamnas: importing this module registers them. Needs no torch."""

from tamnas.attacks import listed as listed
from tamnas.attacks.attack import AnyAttack as AnyAttack
from tamnas.attacks.attack import Attack as Attack
from tamnas.attacks.attack import EvalAttack as EvalAttack
from tamnas.attacks.attack import Pgd as Pgd
from tamnas.attacks.attack import parse_attack as parse_attack
from tamnas.attacks.attack import register as register
