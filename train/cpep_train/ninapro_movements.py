"""Names of the Ninapro movements, four exercises of numbered movements, from the set's documentation."""

_FINGERS = (
    "index flexion", "index extension", "middle flexion", "middle extension", "ring flexion", "ring extension",
    "little flexion", "little extension", "thumb adduction", "thumb abduction", "thumb flexion", "thumb extension",
)  # fmt: skip
_HAND_AND_WRIST = (
    "thumb up", "index and middle extended", "ring and little flexed", "thumb to little finger", "fingers spread",
    "fist", "pointing index", "fingers together", "supination about the middle finger",
    "pronation about the middle finger", "supination about the little finger", "pronation about the little finger",
    "wrist flexion", "wrist extension", "radial deviation", "ulnar deviation", "wrist extension with fist",
)  # fmt: skip
_GRASPS = (
    "large diameter grasp", "small diameter grasp", "fixed hook grasp", "index finger extension grasp", "medium wrap",
    "ring grasp", "prismatic four finger grasp", "stick grasp", "writing tripod grasp", "power sphere grasp",
    "three finger sphere grasp", "precision sphere grasp", "tripod grasp", "prismatic pinch grasp", "tip pinch grasp",
    "quadpod grasp", "lateral grasp", "parallel extension grasp", "extension type grasp", "power disk grasp",
    "open a bottle", "turn a screw", "cut with a knife",
)  # fmt: skip
_FORCES = (
    "press little finger", "press ring finger", "press middle finger", "press index finger", "press thumb abducted",
    "press thumb flexed", "press index and little finger", "press ring and middle finger", "press index and thumb",
)  # fmt: skip
_DATABASE_8 = (
    "thumb flexion and extension", "thumb abduction and adduction", "index flexion and extension",
    "middle flexion and extension", "ring and little flexion and extension", "index pointer", "cylindrical grip",
    "lateral grip", "tripod grip",
)  # fmt: skip

_EXERCISES: dict[str, dict[int, tuple[str, ...]]] = {  # exercises of a database, by the number in the file name
    **dict.fromkeys(("db1", "db5"), {1: _FINGERS, 2: _HAND_AND_WRIST, 3: _GRASPS}),
    **dict.fromkeys(("db2", "db3"), {1: _HAND_AND_WRIST, 2: _GRASPS, 3: _FORCES}),
    "db8": {1: _DATABASE_8},
}


def movement_name(database: str, exercise: int, movement: int) -> str:
    """The name of a movement, by its label in an exercise, from 1; some databases count on across exercises.

    Movements without a name in the documentation are called "movement N".
    """
    exercises = _EXERCISES.get(database, {})
    names = exercises.get(exercise, ())
    before = sum(len(exercises[earlier]) for earlier in range(1, exercise) if earlier in exercises)
    if movement > len(names) and before < movement <= before + len(names):
        movement -= before
    return names[movement - 1] if 1 <= movement <= len(names) else f"movement {movement}"
