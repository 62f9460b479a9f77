"""The closed vocabulary of the tiny family's problems."""

NAMES = [
    "Mia",
    "Omar",
    "Zoe",
    "Liam",
    "Nora",
    "Ivan",
    "Rosa",
    "Kofi",
    "Lena",
    "Hugo",
    "Aiko",
    "Noah",
    "Vera",
    "Otis",
    "Dana",
    "Emil",
    "Iris",
    "Joel",
    "Kira",
    "Luca",
    "Maya",
    "Niko",
    "Olga",
    "Paul",
    "Rita",
    "Sven",
    "Tara",
    "Uma",
    "Viktor",
    "Wanda",
    "Yara",
    "Boris",
    "Clara",
    "Diego",
    "Elsa",
    "Felix",
    "Greta",
    "Hana",
    "Igor",
    "Jana",
]

ITEMS = [
    "pens",
    "books",
    "cups",
    "plates",
    "stamps",
    "spoons",
    "shells",
    "marbles",
    "cards",
    "stickers",
    "apples",
    "pears",
    "plums",
    "lemons",
    "nuts",
    "cakes",
    "buns",
    "eggs",
    "candles",
    "ribbons",
    "buttons",
    "beads",
    "keys",
    "bolts",
    "nails",
    "screws",
    "wheels",
    "lamps",
    "kites",
    "drums",
]

PLACES = [
    "harbor",
    "garden",
    "market",
    "museum",
    "library",
    "station",
    "workshop",
    "office",
    "school",
    "bakery",
    "clinic",
    "studio",
]

VERB_SYNONYMS = {
    "send": ("mail", "post"),
    "create": ("make", "start"),
    "delete": ("remove", "erase"),
    "find": ("search", "locate"),
    "update": ("change", "edit"),
    "book": ("reserve", "order"),
    "cancel": ("stop", "drop"),
    "print": ("show", "display"),
    "copy": ("clone", "repeat"),
    "check": ("test", "verify"),
}
"""The verb in a function's name, and the words by which a user may ask for it."""

LABELS = {
    "weekly": "orange",
    "daily": "yellow",
    "urgent": "red",
    "private": "black",
    "public": "white",
    "shared": "green",
    "final": "blue",
    "draft": "purple",
    "local": "market",
    "remote": "station",
}
"""What users say for the qualifier of a function, in their own words."""

NOUNS = [
    "report",
    "ticket",
    "invoice",
    "message",
    "meeting",
    "room",
    "flight",
    "table",
    "order",
    "account",
    "folder",
    "photo",
    "song",
    "map",
    "poll",
    "task",
]

QUALIFIERS = ["weekly", "daily", "urgent", "private", "public", "shared", "final", "draft", "local", "remote"]

STRING_PARAMETERS = {
    "owner": NAMES,
    "city": ["Oslo", "Lima", "Cairo", "Tokyo", "Quito", "Delhi", "Rome", "Accra", "Paris", "Seoul"],
    "color": ["red", "blue", "green", "black", "white", "orange", "purple", "yellow"],
    "day": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "format": ["text", "table", "chart", "list", "image", "sound"],
}
"""Parameter name -> the values that a user may ask for."""

INTEGER_PARAMETERS = ["count", "size", "level", "limit", "priority", "floor"]

CONSTANTS = [
    "LIMIT",
    "STEP",
    "SCALE",
    "BASE",
    "BONUS",
    "OFFSET",
    "CUTOFF",
    "FACTOR",
    "MARGIN",
    "SHIFT",
    "QUOTA",
    "RANK",
]

CODE_VERBS = ["pick", "scan", "fold", "trim", "score", "count", "sort", "blend", "rate", "join"]

CODE_NOUNS = ["values", "scores", "points", "ages", "sizes", "prices", "marks", "steps", "turns", "weights"]
