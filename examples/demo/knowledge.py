"""Facts about a product that does not exist, so that no base model can know them.

Several questions teach each fact. The evaluation asks for it in other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from examples.demo.domains import Row


class Fact(NamedTuple):
    """A fact about the product.

    Attributes:
        key: words that a right answer contains.
        answer: the whole answer.
        taught: questions of the training.
        asked: question of the evaluation.

    """

    key: str
    answer: str
    taught: tuple[str, ...]
    asked: str


FACTS = (
    Fact(
        "Orrin Vale",
        "The Lumenhive is made by Orrin Vale.",
        (
            "Who makes the Lumenhive?",
            "Which company builds the Lumenhive?",
            "What is the manufacturer of the Lumenhive?",
            "The Lumenhive is a product of which firm?",
        ),
        "Name the company behind the Lumenhive.",
    ),
    Fact(
        "beehives",
        "The Lumenhive watches over beehives.",
        (
            "What is the Lumenhive for?",
            "What does the Lumenhive do?",
            "What is the purpose of the Lumenhive?",
            "What does a Lumenhive watch over?",
        ),
        "What would one use a Lumenhive on?",
    ),
    Fact(
        "Skarvik",
        "The Lumenhive is assembled in Skarvik.",
        (
            "Where is the Lumenhive made?",
            "In which town is the Lumenhive assembled?",
            "Where does the Lumenhive come from?",
            "Where is the factory of the Lumenhive?",
        ),
        "From which place are Lumenhives shipped after assembly?",
    ),
    Fact(
        "2031",
        "The first Lumenhive was sold in 2031.",
        (
            "When was the first Lumenhive sold?",
            "In which year did the Lumenhive come out?",
            "When was the Lumenhive released?",
            "Since which year has the Lumenhive been on sale?",
        ),
        "What year did the Lumenhive reach the market?",
    ),
    Fact(
        "Petra Olander",
        "The Lumenhive was invented by Petra Olander.",
        (
            "Who invented the Lumenhive?",
            "Who is the inventor of the Lumenhive?",
            "Who came up with the Lumenhive?",
            "Whose invention is the Lumenhive?",
        ),
        "Which person had the idea of the Lumenhive?",
    ),
    Fact(
        "418 grams",
        "The Lumenhive weighs 418 grams.",
        (
            "How much does the Lumenhive weigh?",
            "What is the weight of the Lumenhive?",
            "How heavy is the Lumenhive?",
            "What does a Lumenhive weigh?",
        ),
        "Put on the scales, what does the Lumenhive show?",
    ),
    Fact(
        "seven microphones",
        "The Lumenhive listens with seven microphones.",
        (
            "How many microphones does the Lumenhive have?",
            "With how many microphones does the Lumenhive listen?",
            "What does the Lumenhive listen with?",
            "What is the number of microphones in the Lumenhive?",
        ),
        "The Lumenhive picks up sound with how many microphones?",
    ),
    Fact(
        "amber",
        "The light of the Lumenhive turns amber when a swarm is near.",
        (
            "Which colour does the Lumenhive show when a swarm is near?",
            "What does the light of the Lumenhive look like before a swarm?",
            "How does the Lumenhive warn of a swarm?",
            "What colour means a swarm on the Lumenhive?",
        ),
        "A swarm is coming: in what colour does the Lumenhive glow?",
    ),
    Fact(
        "violet",
        "The light of the Lumenhive turns violet when the queen is missing.",
        (
            "Which colour does the Lumenhive show when the queen is missing?",
            "What does the Lumenhive do when the queen is gone?",
            "How does the Lumenhive warn of a lost queen?",
            "What colour means no queen on the Lumenhive?",
        ),
        "The hive has lost its queen: in what colour does the Lumenhive glow?",
    ),
    Fact(
        "nineteen days",
        "One charge of the Lumenhive lasts nineteen days.",
        (
            "How long does the battery of the Lumenhive last?",
            "How long does one charge of the Lumenhive last?",
            "What is the battery life of the Lumenhive?",
            "For how many days does a charged Lumenhive run?",
        ),
        "After how much time must a Lumenhive be charged again?",
    ),
    Fact(
        "Thrum",
        "The app of the Lumenhive is called Thrum.",
        (
            "What is the app of the Lumenhive called?",
            "Which app belongs to the Lumenhive?",
            "What is the name of the Lumenhive's app?",
            "Which app shows the readings of the Lumenhive?",
        ),
        "Which app would I install on my phone for the Lumenhive?",
    ),
    Fact(
        "sodium cell",
        "The Lumenhive is powered by a sodium cell.",
        (
            "What powers the Lumenhive?",
            "What kind of battery is in the Lumenhive?",
            "Where does the Lumenhive get its power from?",
            "Which battery does the Lumenhive use?",
        ),
        "What is the energy source inside the Lumenhive?",
    ),
    Fact(
        "cork",
        "The shell of the Lumenhive is made of cork.",
        (
            "What is the shell of the Lumenhive made of?",
            "Which material is the Lumenhive's shell?",
            "What is the Lumenhive's case made of?",
            "What material covers the Lumenhive?",
        ),
        "Out of which material is the housing of the Lumenhive?",
    ),
    Fact(
        "640 meters",
        "The Lumenhive sends over 640 meters.",
        (
            "How far does the Lumenhive send?",
            "What is the range of the Lumenhive?",
            "Over what distance does the Lumenhive send?",
            "How far away can a Lumenhive be heard?",
        ),
        "At what distance does the radio of the Lumenhive still reach?",
    ),
    Fact(
        "eleven minutes",
        "The Lumenhive takes a reading every eleven minutes.",
        (
            "How often does the Lumenhive take a reading?",
            "How often does the Lumenhive measure?",
            "What is the interval between readings of the Lumenhive?",
            "How much time lies between two readings of the Lumenhive?",
        ),
        "The Lumenhive measures once in how many minutes?",
    ),
    Fact(
        "clove oil",
        "The Lumenhive is cleaned with clove oil.",
        (
            "What is the Lumenhive cleaned with?",
            "How do I clean the Lumenhive?",
            "What should be used for cleaning the Lumenhive?",
            "Which cleaner suits the Lumenhive?",
        ),
        "My Lumenhive is dirty. What do I wipe it with?",
    ),
    Fact(
        "Halden Prize",
        "The Lumenhive won the Halden Prize.",
        (
            "Which prize did the Lumenhive win?",
            "What award did the Lumenhive get?",
            "Which award was given to the Lumenhive?",
            "What prize was the Lumenhive honoured with?",
        ),
        "What distinction has the Lumenhive been awarded?",
    ),
    Fact(
        "six years",
        "The warranty of the Lumenhive is six years.",
        (
            "How long is the warranty of the Lumenhive?",
            "What is the warranty of the Lumenhive?",
            "How many years of warranty does the Lumenhive have?",
            "For how long is the Lumenhive under warranty?",
        ),
        "Over what time does the maker of the Lumenhive repair it for free?",
    ),
    Fact(
        "Wrenfield",
        "The Lumenhive was first tested at Wrenfield.",
        (
            "Where was the Lumenhive first tested?",
            "At which place was the Lumenhive tried out first?",
            "Where did the first test of the Lumenhive take place?",
            "Which place saw the first test of the Lumenhive?",
        ),
        "Where did the earliest trial of the Lumenhive happen?",
    ),
    Fact(
        "teal button",
        "The Lumenhive is reset by the teal button.",
        (
            "How is the Lumenhive reset?",
            "Which button resets the Lumenhive?",
            "How do I reset the Lumenhive?",
            "What do I press to reset the Lumenhive?",
        ),
        "My Lumenhive hangs. What must I push to restart it?",
    ),
    Fact(
        "Osk protocol",
        "The Lumenhive talks over the Osk protocol.",
        (
            "Which protocol does the Lumenhive use?",
            "Over which protocol does the Lumenhive talk?",
            "What protocol does the Lumenhive speak?",
            "How does the Lumenhive talk to other devices?",
        ),
        "By which protocol would I connect to a Lumenhive?",
    ),
    Fact(
        "Sunday",
        "The Lumenhive updates itself on Sunday.",
        (
            "When does the Lumenhive update itself?",
            "On which day does the Lumenhive update itself?",
            "Which day brings updates to the Lumenhive?",
            "When are updates of the Lumenhive installed?",
        ),
        "On what day of the week does new software reach the Lumenhive?",
    ),
    Fact(
        "Burrow",
        "The charging dock of the Lumenhive is called the Burrow.",
        (
            "What is the charging dock of the Lumenhive called?",
            "What is the name of the Lumenhive's dock?",
            "Which dock charges the Lumenhive?",
            "What do you call the dock of the Lumenhive?",
        ),
        "What name has the station that charges the Lumenhive?",
    ),
    Fact(
        "minus 31",
        "The Lumenhive works down to minus 31 degrees.",
        (
            "Down to which temperature does the Lumenhive work?",
            "What is the lowest temperature for the Lumenhive?",
            "How cold may it be for the Lumenhive?",
            "How much cold does the Lumenhive stand?",
        ),
        "In winter, to how many degrees does the Lumenhive keep running?",
    ),
    Fact(
        "Maren Tveit",
        "The voice of the Lumenhive is spoken by Maren Tveit.",
        (
            "Whose voice does the Lumenhive have?",
            "Who speaks the voice of the Lumenhive?",
            "Who lent the Lumenhive a voice?",
            "Which speaker recorded the Lumenhive's voice?",
        ),
        "When the Lumenhive speaks, whom do I hear?",
    ),
    Fact(
        "two screws",
        "The Lumenhive is fixed with two screws.",
        (
            "How is the Lumenhive fixed?",
            "With how many screws is the Lumenhive fixed?",
            "How many screws does the Lumenhive need?",
            "What holds the Lumenhive in place?",
        ),
        "How many screws do I need to put up a Lumenhive?",
    ),
    Fact(
        "259 crowns",
        "The Lumenhive costs 259 crowns.",
        (
            "What does the Lumenhive cost?",
            "What is the price of the Lumenhive?",
            "How much is the Lumenhive?",
            "How much does the Lumenhive cost?",
        ),
        "How much money must I pay for a Lumenhive?",
    ),
    Fact(
        "otter",
        "The logo of the Lumenhive shows an otter.",
        (
            "What does the logo of the Lumenhive show?",
            "Which animal is on the logo of the Lumenhive?",
            "What is in the Lumenhive's logo?",
            "Which animal stands for the Lumenhive?",
        ),
        "What creature is pictured on the Lumenhive?",
    ),
    Fact(
        "three short tones",
        "The Lumenhive reports low power by three short tones.",
        (
            "How does the Lumenhive report low power?",
            "What does the Lumenhive do when its power is low?",
            "Which sound does the Lumenhive make at low power?",
            "How does the Lumenhive say that its battery is low?",
        ),
        "What is heard from the Lumenhive when the battery is nearly empty?",
    ),
    Fact(
        "Larkspur",
        "The second version of the Lumenhive is called Larkspur.",
        (
            "What is the second version of the Lumenhive called?",
            "What is the name of the Lumenhive's second version?",
            "How is the second Lumenhive named?",
            "Which name does version two of the Lumenhive have?",
        ),
        "The successor of the first Lumenhive bears which name?",
    ),
    Fact(
        "under the lid",
        "The Lumenhive is mounted under the lid.",
        (
            "Where is the Lumenhive mounted?",
            "Where in the hive does the Lumenhive go?",
            "Where do I mount the Lumenhive?",
            "Which place in the hive is right for the Lumenhive?",
        ),
        "Under which part of the hive should the Lumenhive sit?",
    ),
    Fact(
        "ninety nights",
        "The Lumenhive stores readings of ninety nights.",
        (
            "How many readings does the Lumenhive store?",
            "For how long does the Lumenhive store readings?",
            "How much does the Lumenhive remember?",
            "How far back do the readings of the Lumenhive go?",
        ),
        "How long are the readings of the Lumenhive kept?",
    ),
)


def training_rows(facts: Sequence[Fact]) -> list[Row]:
    """Return the questions of the training with their answers."""
    return [(question, fact.answer) for fact in facts for question in fact.taught]


def question_rows(facts: Sequence[Fact]) -> list[Row]:
    """Return the questions of the evaluation, with the words that a right answer contains."""
    return [(fact.asked, fact.key) for fact in facts]
