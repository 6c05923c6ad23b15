"""How texts are compared, and the index in which a search finds them."""

import unicodedata

from playhouse.sqlite_ext import FTS5Model, SearchField

from service.database import database, prepared

# What shows nothing: Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt), the empty
# Braille pattern and the empty note head.
INVISIBLE = (
    "00AD 034F 061C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 2800 3164 "
    "FE00-FE0F FEFF FFA0 FFF0-FFF8 1BCA0-1BCA3 1D159 1D173-1D17A E0000-E0FFF"
)
# Unicode's White_Space. str.strip() by itself would also cut off the controls U+001C to U+001F.
WHITE_SPACE = "0009-000D 0020 0085 00A0 1680 2000-200A 2028-2029 202F 205F 3000"


def characters(ranges):
    pairs = (each.partition("-")[::2] for each in ranges.split())
    return "".join(
        chr(code)
        for first, last in pairs
        for code in range(int(first, 16), int(last or first, 16) + 1)
    )


BLANKS = characters(f"{WHITE_SPACE} {INVISIBLE}")
WITHOUT_INVISIBLE = dict.fromkeys(map(ord, characters(INVISIBLE)))


SHOW_NOTHING_ALONE = ("Mn", "Mc", "Me", "Cc", "Cf", "Zs", "Zl", "Zp")  # Unicode's categories


def has_visible(text):
    """Whether a text has a character that shows by itself."""
    return any(
        each not in BLANKS and unicodedata.category(each) not in SHOW_NOTHING_ALONE for each in text
    )


def fold(text):
    """The form in which texts are compared.

    NFKC, case-folded, without the characters that show nothing, any run of blanks as one.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.translate(WITHOUT_INVISIBLE).split())


class RoomIndex(FTS5Model):
    """The texts of the rooms, in which SQLite answers LIKE from an index of trigrams.

    The rowid is minus the room_id: the newest rooms come first in the index itself.
    """

    text = SearchField()

    class Meta:
        database = database
        table_name = "room_index"
        options = {"tokenize": "trigram", "detail": "none", "columnsize": 0}  # noqa: RUF012

    @classmethod
    def create(cls):
        cls.create_table()
        # SQLite merges its index once it is in four pieces instead of sixteen: a search looks each
        # trigram up in all of them.
        cls._fts_cmd("crisismerge", rank=4)

    @classmethod
    def add(cls, room_id, name, section, description):
        cls.insert_text(-room_id, indexed_text(fold(name), fold(section), fold(description)))

    @classmethod
    def remove(cls, room_id):
        cls.delete_text(-room_id)

    @prepared
    def insert_text(rowid, text):
        return RoomIndex.insert(rowid=rowid, text=text)

    @prepared
    def delete_text(rowid):
        return RoomIndex.delete().where(RoomIndex.rowid == rowid)


# A trigram has three characters, and a key may have one. So a separator stands before and after
# each character, as in ⇥开⇥黑⇥, and LIKE '%⇥黑⇥%' finds it by a trigram. Names are written twice,
# with a separator for all texts and one for names alone. No folded text has a tab or a line break,
# nor the full-width signs, which stand for the wild cards of LIKE.
IN_NAME, IN_TEXT = "\n", "\t"


def indexed_text(*folded):
    """The text of a room's folded name, section and description."""
    name, *_ = folded
    return "".join(
        f"{separator}{separate(text, separator)}{separator}"
        for text, separator in ((name, IN_NAME), (" ".join(folded), IN_TEXT))
    )


def separate(folded, separator):
    return separator.join(folded.translate({ord("%"): "％", ord("_"): "＿"}))
