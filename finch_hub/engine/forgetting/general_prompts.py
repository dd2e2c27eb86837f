"""General prompts with answers, in several languages and of several kinds, on which models are compared.

They are fixed, so that figures of different adapters can be compared. A change of them needs a new `VERSION`.
"""

from __future__ import annotations

from finch_hub.specs.examples import Example

VERSION = 1
"""Number of this set, which reports name."""

_PAIRS = (
    # Facts and explanations.
    ("Why is the sky blue?", "Air scatters blue light more than red light, so blue reaches us from all sides."),
    ("What do plants need to grow?", "Plants need light, water, air and minerals from the soil."),
    ("How does a bicycle stay upright?", "It is steered into each fall, which puts it back under its rider."),
    ("Which is heavier, a kilogram of iron or a kilogram of wool?", "Neither: both weigh one kilogram."),
    ("Explain what a database index is for.", "It lets a database find rows without reading the whole table."),
    # Counting and logic.
    ("What is 17 plus 26?", "17 plus 26 is 43."),
    ("A train leaves at 9:40 and arrives at 11:05. How long does it take?", "It takes 1 hour and 25 minutes."),
    ("All cats are animals. Tom is a cat. Is Tom an animal?", "Yes. Tom is a cat, and all cats are animals."),
    # Instructions about texts.
    ("Rewrite politely: Close the window.", "Could you please close the window?"),
    ("Correct the sentence: She go to school every days.", "She goes to school every day."),
    ("Name three fruits, separated by commas.", "apple, pear, banana"),
    ("Give the opposite of each word: hot, early, empty.", "cold, late, full"),
    ("Sum up in one sentence: The shop opens at nine. It closes at six. On Sundays it stays closed.",
     "The shop is open from nine to six, except on Sundays."),
    # Writing and conversation.
    ("Hello! How are you today?", "Hello! I am well, thank you. How can I help you?"),
    ("Write the first two lines of a story about a lighthouse.",
     "Every evening the old keeper climbed the stairs and lit the lamp.\nOne night, somebody had lit it before him."),
    ("I feel nervous before my exam. What can I do?",
     "Take a few slow breaths, look through your notes once more, and go to bed early."),
    # Code and data.
    ("Write a Python function that squares a number.", "def square(number):\n    return number * number"),
    ("What does the SQL command SELECT COUNT(*) FROM birds return?", "It returns the number of rows in birds."),
    ("Write as JSON: name Anna, age 31.", '{"name": "Anna", "age": 31}'),
    # Other languages.
    ("Wie heißt die Hauptstadt von Frankreich?", "Die Hauptstadt von Frankreich ist Paris."),
    ("Nenne zwei Tiere, die fliegen können.", "Der Adler und die Fledermaus können fliegen."),
    ("Quelle est la couleur de la neige ?", "La neige est blanche."),
    ("¿Cuántos días tiene una semana?", "Una semana tiene siete días."),
    ("Quantas horas tem um dia?", "Um dia tem vinte e quatro horas."),
    ("Come si dice «grazie» in inglese?", "In inglese si dice «thank you»."),
    ("Какое время года наступает после зимы?", "После зимы наступает весна."),
    ("水在多少度结冰?", "水在零摄氏度结冰。"),
    ("日本の首都はどこですか。", "日本の首都は東京です。"),
    ("ما هو عدد أشهر السنة؟", "عدد أشهر السنة اثنا عشر شهرا."),
    ("सूरज किस दिशा में उगता है?", "सूरज पूर्व दिशा में उगता है।"),
    ("Translate into French: The house is small.", "La maison est petite."),
    ("Translate into English: Der Zug kommt um acht Uhr an.", "The train arrives at eight o'clock."),
)  # fmt: skip

GENERAL_EXAMPLES = tuple(Example.of_pair(prompt, answer) for prompt, answer in _PAIRS)
"""The prompts with their answers."""
