"""Class names of the two synthetic domains, in the order of the label values."""

DOMAINS = ("synth_pascal", "synth_nyud")

PASCAL21 = tuple(
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
    "motorbike person pottedplant sheep sofa train tvmonitor".split()
)

NYUD40 = tuple(
    "wall,floor,cabinet,bed,chair,sofa,table,door,window,bookshelf,picture,counter,blinds,desk,"
    "shelves,curtain,dresser,pillow,mirror,floor mat,clothes,ceiling,books,refridgerator,"
    "television,paper,towel,shower curtain,box,whiteboard,person,night stand,toilet,sink,lamp,"
    "bathtub,bag,otherstructure,otherfurniture,otherprop".split(",")
)

HUMAN_PARTS = tuple("background,head,torso,upper arms,lower arms,upper legs,lower legs".split(","))
HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = range(1, 7)

IGNORE = 255

SEMSEG = {"synth_pascal": PASCAL21, "synth_nyud": NYUD40}
KINDS = {
    "synth_pascal": ("semseg", "normals", "edge", "sal", "human_parts"),
    "synth_nyud": ("semseg", "depth", "normals", "edge"),
}
