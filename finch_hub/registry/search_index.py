"""The index of versions for searches: narrow rows, numbers and texts, which triggers of the database keep right.

It has no facts of its own, so backups leave it out, and it can be dropped and built again at any time. A migration that
rebuilds one of the tables below on SQLite must drop it before, and create and fill it afterwards, because SQLite drops
the triggers of a table with the table.

The migrations of the index run the SQL of this file, whatever it was when they were written. So an old hub gets the
index of this code at 0018, and the later ones make it again. Therefore the index reads columns of 0018 only. Whoever
needs a later one lets the migration that adds it build the index, and takes the SQL out of those before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from finch_hub.specs import folding

TABLES = ("searched_versions", "version_numbers")
TEXTS = "version_texts"  # of SQLite. PostgreSQL has the words in `searched_versions`.
LETTERS = "folded_letters"  # of SQLite. PostgreSQL can fold texts itself.

_MAX_TEXT = 80_000  # characters: PostgreSQL refuses more than 1 MB of words
_BATCH = 2000
_MAX_STALE = 20  # versions that a check names
_NAMES = "version_id, adapter_id, name, number, base_id, kind, state, preset, owner, created_at, updated_at"
_COLUMNS = """
    version_id {id} PRIMARY KEY,
    adapter_id BIGINT NOT NULL,
    name VARCHAR(255) {binary} NOT NULL,
    number INTEGER NOT NULL,
    base_id BIGINT NOT NULL,
    kind VARCHAR(16) NOT NULL,
    state VARCHAR(16) NOT NULL,
    preset VARCHAR(255),
    owner VARCHAR(255) NOT NULL,
    created_at {time} NOT NULL,
    updated_at {time} NOT NULL"""
# A filter has its own index in the order of creation, so that a page of it is read in that order.
_INDEXES = {
    "ix_searched_versions_created": "searched_versions (created_at, version_id)",
    "ix_searched_versions_updated": "searched_versions (updated_at, version_id)",
    "ix_searched_versions_name": "searched_versions (name, number, version_id)",
    **{
        f"ix_searched_versions_{name}": f"searched_versions ({column}, created_at, version_id)"
        for name, column in (
            ("adapter", "name"),
            ("base", "base_id"),
            ("kind", "kind"),
            ("state", "state"),
            ("owner", "owner"),
            ("preset", "preset"),
        )
    },
    "ix_version_numbers_value": "version_numbers (name, value, version_id)",
}
# Indexes of the registry's own tables, for the triggers of data sets and for filters.
SOURCE_INDEXES: dict[str, tuple[str, list[str], str | None]] = {
    "ix_adapter_versions_train_digest": ("adapter_versions", ["train_digest", "id"], "train_digest IS NOT NULL"),
    "ix_adapter_versions_validation_digest": (
        "adapter_versions",
        ["validation_digest", "id"],
        "validation_digest IS NOT NULL",
    ),
    "ix_tags_name_value": ("tags", ["name", "value", "version_id"], None),
}
_CHANGED = (
    "adapter_id, number, base_id, kind, state, preset, owner, spec, metrics, train_digest, validation_digest, card,"
    " notes, created_at, deleted_at"
)
_OF_ADAPTER = "SELECT x.id FROM adapter_versions x WHERE x.adapter_id = NEW.id"
_OF_DATASET = (
    "SELECT x.id FROM adapter_versions x WHERE x.train_digest = {row}.digest"
    " UNION SELECT x.id FROM adapter_versions x WHERE x.validation_digest = {row}.digest"
)
# Name of a data set in the index. Jobs store and purge data sets without one, which must wait for nobody.
_VISIBLE = "coalesce(CASE WHEN {row}.purged_at IS NULL THEN {row}.name END, '')"
# Trigger, event, condition, and the versions whose entries are made anew.
_TRIGGERS = (
    ("version_added", "INSERT ON adapter_versions", "NEW.deleted_at IS NULL", "SELECT NEW.id"),
    ("version_changed", f"UPDATE OF {_CHANGED} ON adapter_versions", "TRUE", "SELECT NEW.id"),
    ("version_removed", "DELETE ON adapter_versions", "TRUE", "SELECT OLD.id"),
    ("adapter_changed", "UPDATE OF name, description, deleted_at ON adapters", "TRUE", _OF_ADAPTER),
    ("tag_added", "INSERT ON tags", "TRUE", "SELECT NEW.version_id"),
    ("tag_changed", "UPDATE OF name, value ON tags", "TRUE", "SELECT NEW.version_id"),
    ("tag_removed", "DELETE ON tags", "TRUE", "SELECT OLD.version_id"),
    ("dataset_added", "INSERT ON datasets", "NEW.name IS NOT NULL", _OF_DATASET.format(row="NEW")),
    (
        "dataset_changed",
        "UPDATE OF name, purged_at ON datasets",
        f"{_VISIBLE.format(row='OLD')} <> {_VISIBLE.format(row='NEW')}",
        _OF_DATASET.format(row="NEW"),
    ),
    ("dataset_removed", "DELETE ON datasets", "OLD.name IS NOT NULL", _OF_DATASET.format(row="OLD")),
)
# A version that is not committed is invisible to the trigger of its data set, and so is a name to that of the version.
# So new versions share a lock, which changes of names own.
_NAMING = "pg_advisory_xact_lock{shared}(439805665636)"
_LOCKS = {"version_added": _NAMING.format(shared="_shared")} | {
    name: _NAMING.format(shared="") for name in ("dataset_added", "dataset_changed", "dataset_removed")
}
# A move of an alias changes no more than this, so that the words are not made anew.
_TOUCHED = "UPDATE OF updated_at ON adapter_versions"
_TOUCH = """UPDATE searched_versions SET updated_at = coalesce(NEW.updated_at, NEW.created_at)
    WHERE version_id = NEW.id"""
_PRESENT = """FROM adapter_versions v JOIN adapters a ON a.id = v.adapter_id {more}
    WHERE v.deleted_at IS NULL AND a.deleted_at IS NULL AND {which}"""
_ENTRY = """v.id, v.adapter_id, a.name, v.number, v.base_id, v.kind, v.state, v.preset, coalesce(v.owner, ''),
    v.created_at, coalesce(v.updated_at, v.created_at)"""
_TEXT = f"""substr(a.name || ' '
    || coalesce((SELECT {{join}}(t.name || ' ' || t.value, ' ') FROM tags t WHERE t.version_id = v.id), '') || ' '
    || coalesce((SELECT {{join}}(d.name, ' ') FROM datasets d
        WHERE d.digest IN (v.train_digest, v.validation_digest) AND d.purged_at IS NULL), '') || ' '
    || coalesce(a.description, '') || ' ' || coalesce(v.notes, '') || ' ' || v.card, 1, {_MAX_TEXT})"""  # noqa: S608 - no input of users, here and below


# FTS5 folds Latin letters itself. It knows the characters of 2012, and would take later emoji for letters.
_EMOJI = "".join(map(chr, range(0x1F300, 0x1FB00)))
_TOKENIZER = f"unicode61 remove_diacritics 2 categories ''L* M* Nd Nl Co'' separators ''{_EMOJI}''"
# The text of the row `given`, folded. Only texts with such a character look for those to replace.
_FOLD_SQLITE = f"""CASE WHEN length(given.text) = length(CAST(given.text AS BLOB))
    OR given.text NOT GLOB '{folding.PATTERN}' THEN given.text ELSE (
    WITH RECURSIVE steps (text, letters, place) AS (
        SELECT given.text, (SELECT json_group_array(json_array(l.letter, l.folded))
            FROM (SELECT DISTINCT block FROM {LETTERS}) b CROSS JOIN {LETTERS} l ON l.block = b.block
            WHERE given.text GLOB b.block AND instr(given.text, l.letter)), 0
        UNION ALL SELECT replace(s.text, json_extract(s.letters, '$[' || s.place || '][0]'),
            json_extract(s.letters, '$[' || s.place || '][1]')), s.letters, s.place + 1
        FROM steps s WHERE s.place < json_array_length(s.letters)
    ) SELECT s.text FROM steps s ORDER BY s.place DESC LIMIT 1) END"""  # noqa: S608


def build(connection: sa.Connection) -> None:
    """Build the index anew in the transaction of a connection."""
    drop(connection)
    create(connection)
    fill(connection)
    for statement in list_indexes(connection.dialect.name):
        connection.exec_driver_sql(statement)
    analyze(connection)


def create(connection: sa.Connection) -> None:
    """Create the tables and the triggers. The tables are empty until `fill`, and without indexes."""
    if connection.dialect.name == "sqlite":
        columns = "block VARCHAR NOT NULL, letter VARCHAR NOT NULL, folded VARCHAR NOT NULL"
        connection.exec_driver_sql(f"CREATE TABLE {LETTERS} ({columns}, PRIMARY KEY (block, letter)) WITHOUT ROWID")
        rows = [(_find_block(letter), letter, folded) for letter, folded in folding.list_letters().items()]
        connection.exec_driver_sql(f"INSERT INTO {LETTERS} VALUES (?, ?, ?)", rows)  # noqa: S608
    else:
        create_fold(connection)
    for statement in _list_statements(connection.dialect.name):
        connection.exec_driver_sql(statement)


def _find_block(letter: str) -> str:
    """Return what GLOB finds in texts with a letter of the same 128, so that those of other scripts are left out."""
    first = ord(letter) & ~127
    return f"*[{chr(first)}-{chr(first + 127)}]*"


# Of the collations that know the case of all letters. A database may have one that knows ASCII only.
_CASES = ("pg_c_utf8", "und-x-icu", "C.utf8", "default")


def create_fold(connection: sa.Connection) -> None:
    """Create or renew the function that folds a text for PostgreSQL's parser, which takes a path for one word.

    `refresh` makes the entries of earlier texts anew.
    """
    found = set(connection.exec_driver_sql("SELECT collname FROM pg_collation").scalars())
    case = next(name for name in _CASES if name in found)
    lower = f'lower(normalize(given, NFD) COLLATE "{case}")'
    letters = "".join(folding.CHANGED)
    changed = f"translate(regexp_replace({lower}, '[{folding.IGNORED}]', '', 'g'), '{letters}', '{folding.CHANGED_TO}')"
    connection.exec_driver_sql(
        f"""CREATE OR REPLACE FUNCTION fold_text(given text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
        SELECT normalize(regexp_replace({changed}, '[{folding.SEPARATORS}]+', ' ', 'g'), NFC) $$"""
    )


def fold_query(session: Session, text: str) -> str:
    """Return a text as SQLite's index has it, but for what FTS5 does itself to a text and to a query."""
    if text.isascii():
        return text
    query = sa.text(f"SELECT {_FOLD_SQLITE} FROM (SELECT :text AS text) AS given")  # noqa: S608
    return str(session.scalar(query, {"text": text}))


def list_indexes(dialect: str, *, concurrently: bool = False) -> list[str]:
    """Return the statements that make the indexes. Built at the end, they take a fraction of the time."""
    create = f"CREATE INDEX {'CONCURRENTLY ' if concurrently else ''}"
    statements = [f"{create}{name} ON {on}" for name, on in _INDEXES.items()]
    if dialect != "sqlite":
        # Entries that wait in a list, as GIN has them by default, would be read by each search.
        words = "searched_versions USING gin (words) WITH (fastupdate = off)"
        statements.append(f"{create}ix_searched_versions_words ON {words}")
    return statements


def analyze(connection: sa.Connection) -> None:
    """Let PostgreSQL count the rows, on which its plans depend. Those of SQLite are chosen by the searches."""
    for table in TABLES if connection.dialect.name != "sqlite" else ():
        connection.exec_driver_sql(f"ANALYZE {table}")


def fill(connection: sa.Connection) -> None:
    """Index all versions that triggers have not indexed since `create`, in batches."""
    is_sqlite = connection.dialect.name == "sqlite"
    batches = list(list_batches(connection))
    if batches and not is_sqlite:  # of rows that it has not counted, PostgreSQL would join all adapters in each batch
        connection.exec_driver_sql("ANALYZE adapters, adapter_versions, datasets, tags")
    for first, last in batches:
        which = f"v.id BETWEEN {first} AND {last}"
        statements = _insert_sqlite(which) if is_sqlite else [_fill_postgresql(which)]
        for statement in statements:
            connection.exec_driver_sql(statement)


def renew_triggers(connection: sa.Connection) -> None:
    """Give PostgreSQL's triggers their locks, and that of data sets its condition, which early migrations lack."""
    is_sqlite = connection.dialect.name == "sqlite"
    for trigger in _TRIGGERS:
        statements = [_trigger_sqlite(*trigger)] if is_sqlite else _trigger_postgresql(*trigger)
        if trigger[0] == "dataset_changed":
            table = "" if is_sqlite else " ON datasets"
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS search_{trigger[0]}{table}")
            for statement in statements:
                connection.exec_driver_sql(statement)
        elif trigger[0] in _LOCKS and not is_sqlite:  # which has one writer at a time
            connection.exec_driver_sql(statements[0])


def refresh(connection: sa.Connection, first: int, last: int) -> None:
    """Make the entries of a batch of versions anew, while others change them."""
    ids = f"SELECT x.id FROM adapter_versions x WHERE x.id BETWEEN {first} AND {last}"  # noqa: S608 - numbers
    removed = f"BETWEEN {first} AND {last} AND {{id}} NOT IN ({ids})"
    texts = ((TEXTS, "rowid"),) if connection.dialect.name == "sqlite" else ()
    for table, key in (*((table, "version_id") for table in TABLES), *texts):
        connection.exec_driver_sql(f"DELETE FROM {table} WHERE {key} {removed.format(id=key)}")  # noqa: S608
    if connection.dialect.name == "sqlite":
        for statement in _refresh_sqlite(ids):
            connection.exec_driver_sql(statement)
    else:
        connection.exec_driver_sql(f"SELECT refresh_searched_versions(ARRAY({ids}))")


def share_names(session: Session) -> None:
    """Keep the names of data sets until the commit. Whoever locks several versions calls this before.

    A change of a name takes this lock, and then those of the versions of its data.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.text(f"SELECT {_NAMING.format(shared='_shared')}"))


def find_stale(connection: sa.Connection, first: int, last: int) -> list[int]:
    """Return the ids of versions of a batch whose entries are not what their rows say, a few at most."""
    is_sqlite = connection.dialect.name == "sqlite"
    which, own = f"v.id BETWEEN {first} AND {last}", f"version_id BETWEEN {first} AND {last}"
    present = _PRESENT.format(which=which, more="")
    words = "" if is_sqlite else f", strip(to_tsvector('simple', fold_text({_TEXT.format(join='string_agg')})))"
    of_words = "" if is_sqlite else ", strip(words)"
    entries = f"SELECT {_NAMES}{of_words} FROM searched_versions WHERE {own}"  # noqa: S608
    numbers = f"SELECT version_id, name, value FROM version_numbers WHERE {own}"  # noqa: S608
    pairs = ((f"SELECT {_ENTRY}{words} {present}", entries), (_select_numbers(which, is_sqlite=is_sqlite), numbers))
    stale: set[int] = set()
    for wanted, found in pairs:
        for one, other in ((wanted, found), (found, wanted)):
            query = f"SELECT * FROM ({one}) AS one EXCEPT SELECT * FROM ({other}) AS other LIMIT {_MAX_STALE}"  # noqa: S608
            stale.update(int(row[0]) for row in connection.exec_driver_sql(query))
    if is_sqlite:
        stale.update(_find_stale_texts(connection, present, first, last))
    return sorted(stale)[:_MAX_STALE]


def _find_stale_texts(connection: sa.Connection, present: str, first: int, last: int) -> Iterator[int]:
    of_rows = _select_texts_sqlite(present)
    of_index = f"SELECT rowid, text FROM {TEXTS} WHERE rowid BETWEEN {first} AND {last}"  # noqa: S608
    wanted, found = (
        {int(number): str(text) for number, text in connection.exec_driver_sql(query)} for query in (of_rows, of_index)
    )
    for number in wanted.keys() | found.keys():
        # Names that are joined have no order.
        if sorted(wanted.get(number, "").split()) != sorted(found.get(number, "").split()) or number not in found:
            yield number


def drop(connection: sa.Connection) -> None:
    """Drop the index, if there is one."""
    if connection.dialect.name == "sqlite":
        for name, _ in _list_triggers():
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS search_{name}")
    else:
        for name, event in _list_triggers():
            table = event.rpartition(" ")[2]
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS search_{name} ON {table}")
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS search_{name}()")
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS refresh_searched_versions(bigint[])")
    for table in (TEXTS, LETTERS, *TABLES):
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    if connection.dialect.name != "sqlite":
        connection.exec_driver_sql("DROP FUNCTION IF EXISTS fold_text(text)")


def list_tables(connection: sa.Connection) -> list[sa.TableClause]:
    """Return the tables with their columns, for a check that they are there."""
    columns = [part.split()[0] for part in _NAMES.split(", ")]
    entries, numbers, texts = columns, ["version_id", "name", "value"], ["rowid"]
    if connection.dialect.name == "sqlite":
        named = {TABLES[0]: entries, TABLES[1]: numbers, TEXTS: texts, LETTERS: ["block", "letter", "folded"]}
    else:
        named = {TABLES[0]: [*entries, "words"], TABLES[1]: numbers}
    return [sa.table(name, *map(sa.column, columns)) for name, columns in named.items()]


def merge_texts(connection: Any) -> None:
    """Remove the words of deleted texts, which FTS5 keeps until it merges them, from a file of SQLite."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (TEXTS,)).fetchone():
        connection.execute(f"INSERT INTO {TEXTS} ({TEXTS}) VALUES ('optimize')")  # noqa: S608


def list_batches(connection: sa.Connection) -> Iterator[tuple[int, int]]:
    """Yield the first and the last id of each batch of versions."""
    keys = [("adapter_versions", "id"), *((table, "version_id") for table in TABLES)]
    keys += [(TEXTS, "rowid")] if connection.dialect.name == "sqlite" else []
    last = max(
        connection.exec_driver_sql(f"SELECT max({key}) FROM {table}").scalar() or 0  # noqa: S608
        for table, key in keys
    )
    for first in range(1, int(last) + 1, _BATCH):
        yield first, first + _BATCH - 1


def _list_statements(dialect: str) -> list[str]:
    is_sqlite = dialect == "sqlite"
    kinds = {"id": "INTEGER", "time": "VARCHAR(23)", "binary": ""}
    if not is_sqlite:
        kinds = {"id": "BIGINT", "time": "TIMESTAMP WITH TIME ZONE", "binary": 'COLLATE "C"'}
    columns = _COLUMNS.format(**kinds)
    numbers = """CREATE TABLE version_numbers (
        version_id BIGINT NOT NULL, name VARCHAR(255) {binary} NOT NULL, value DOUBLE PRECISION NOT NULL,
        PRIMARY KEY (version_id, name)){end}"""
    if is_sqlite:
        return [
            f"CREATE TABLE searched_versions ({columns})",
            numbers.format(binary="", end=" WITHOUT ROWID"),
            f"CREATE VIRTUAL TABLE {TEXTS} USING fts5(text, columnsize = 0, tokenize = '{_TOKENIZER}')",
            *(_trigger_sqlite(*trigger) for trigger in _TRIGGERS),
            f"CREATE TRIGGER search_version_touched AFTER {_TOUCHED} BEGIN {_TOUCH}; END",
        ]
    return [
        f"CREATE TABLE searched_versions ({columns}, words TSVECTOR NOT NULL)",
        # Words are kept apart from the rows, so that a search for a frequent word reads few pages.
        "ALTER TABLE searched_versions SET (toast_tuple_target = 128)",
        numbers.format(binary='COLLATE "C"', end=""),
        *_REFRESH,
        *(statement for trigger in _TRIGGERS for statement in _trigger_postgresql(*trigger)),
        *_write_trigger_postgresql("version_touched", _TOUCHED, "TRUE", _TOUCH),
    ]


def _refresh_sqlite(ids: str) -> list[str]:
    """Return the statements that make the entries of some versions anew."""
    return [
        f"DELETE FROM version_numbers WHERE version_id IN ({ids})",  # noqa: S608 - no input of users
        f"DELETE FROM searched_versions WHERE version_id IN ({ids})",  # noqa: S608
        f"DELETE FROM {TEXTS} WHERE rowid IN ({ids})",  # noqa: S608
        *_insert_sqlite(f"v.id IN ({ids})"),
    ]


def _insert_sqlite(which: str) -> list[str]:
    present = _PRESENT.format(which=which, more="")
    return [
        f"INSERT INTO searched_versions ({_NAMES}) SELECT {_ENTRY} {present}",
        f"INSERT INTO version_numbers {_select_rank_sqlite(which)}",
        *(f"INSERT OR REPLACE INTO version_numbers {numbers}" for numbers in _list_numbers_sqlite(which)),
        f"INSERT INTO {TEXTS} (rowid, text) {_select_texts_sqlite(present)}",
    ]


def _select_texts_sqlite(present: str) -> str:
    text = _TEXT.format(join="group_concat")
    # Without the limit, SQLite would make the text anew for each letter.
    return f"SELECT given.id, {_FOLD_SQLITE} FROM (SELECT v.id, {text} AS text {present} LIMIT -1) AS given"  # noqa: S608


_METRICS_SQLITE, _SPEC_SQLITE = (f"iif(json_valid({column}), {column}, '{{}}')" for column in ("v.metrics", "v.spec"))
_RANK = f"json_extract({_METRICS_SQLITE}, '$.rank')"


def _select_rank_sqlite(which: str) -> str:
    """Return the query of the ranks of versions by their metrics, since an import has no settings."""
    present = _PRESENT.format(which=which, more="")
    return f"SELECT v.id, 'lora.rank', {_RANK} {present} AND typeof({_RANK}) = 'integer'"


def _list_numbers_sqlite(which: str) -> list[str]:
    """Return the queries of the numbers of versions, by the documents that have them."""
    sources = (
        ("metric.", f"json_each({_METRICS_SQLITE})"),
        ("lora.", f"json_each({_SPEC_SQLITE}, '$.lora')"),
        ("training.", f"json_each({_SPEC_SQLITE}, '$.training')"),
    )
    is_number = (
        "j.type IN ('integer', 'real') AND abs(j.value) < 1e300 AND typeof(j.key) = 'text' AND length(j.key) < 200"
    )
    return [
        f"SELECT v.id, '{group}' || j.key, CAST(j.value AS REAL)"
        f" {_PRESENT.format(which=which, more=f', {source} j')} AND {is_number}"
        for group, source in sources
    ]


def _select_numbers(which: str, *, is_sqlite: bool) -> str:
    """Return the query of all numbers of versions, for a check."""
    if is_sqlite:
        numbers = " UNION ALL ".join(_list_numbers_sqlite(which))
        rank = _select_rank_sqlite(which)
    else:
        numbers = _numbers_postgresql(which)
        rank = "SELECT id, 'lora.rank' AS name, value FROM found WHERE name = 'metric.rank'"
    has_rank = "SELECT 1 FROM found WHERE found.id = ranks.id AND found.name = 'lora.rank'"
    return (
        f"WITH found (id, name, value) AS ({numbers}), ranks (id, name, value) AS ({rank})"  # noqa: S608
        f" SELECT * FROM found UNION ALL SELECT * FROM ranks WHERE NOT EXISTS ({has_rank})"
    )


def _trigger_sqlite(name: str, event: str, condition: str, ids: str) -> str:
    statements = _insert_sqlite("v.id = NEW.id") if name == "version_added" else _refresh_sqlite(ids)
    body = ";\n".join(statements)
    return f"CREATE TRIGGER search_{name} AFTER {event} WHEN {condition} BEGIN\n{body};\nEND"


def _insert_postgresql(which: str) -> str:
    return f"""
        INSERT INTO searched_versions ({_NAMES}, words)
            SELECT {_ENTRY}, to_tsvector('simple', fold_text({_TEXT.format(join="string_agg")}))
            {_PRESENT.format(which=which, more="")}
            ON CONFLICT DO NOTHING;
        INSERT INTO version_numbers (version_id, name, value)
            {_numbers_postgresql(which)}
            ON CONFLICT DO NOTHING;
        INSERT INTO version_numbers (version_id, name, value)
            SELECT v.id, 'lora.rank', n.value
            {_PRESENT.format(which=f"{which} AND n.name = 'metric.rank'", more=_NUMBERS_OF_VERSION)}
            ON CONFLICT DO NOTHING;"""


_NUMBERS_OF_VERSION = "JOIN version_numbers n ON n.version_id = v.id"


def _numbers_postgresql(which: str) -> str:
    return f"""
            SELECT id, name, (CASE WHEN abs(value::numeric) < 1e-300 THEN 0 ELSE value::numeric END)::double precision
            FROM (
                {_number_postgresql("metric.", "v.metrics", which)} UNION ALL
                {_number_postgresql("lora.", "v.spec -> 'lora'", which)} UNION ALL
                {_number_postgresql("training.", "v.spec -> 'training'", which)}
            ) AS found
            WHERE CASE WHEN jsonb_typeof(value) = 'number' THEN abs(value::numeric) < 1e300 ELSE false END
                AND length(name) < 200"""  # noqa: S608


def _number_postgresql(group: str, document: str, which: str) -> str:
    fields = f"jsonb_each(CASE jsonb_typeof({document}) WHEN 'object' THEN {document} END)"
    present = _PRESENT.format(which=which, more=f"CROSS JOIN LATERAL {fields} j")
    return f"SELECT v.id, '{group}' || j.key AS name, j.value {present}"


def _fill_postgresql(which: str) -> str:
    """Return a block that indexes versions which nobody changes at that time."""
    lock = f"PERFORM 1 FROM adapter_versions v WHERE {which} ORDER BY v.id FOR NO KEY UPDATE;"
    return f"DO $$ BEGIN {lock} {_insert_postgresql(which)} END $$"


_REFRESH = (
    # The lock lets changes of one version follow each other, so that each sees what the one before wrote. A connection
    # keeps the plans of a function, so they must not be those of an empty table.
    f"""CREATE FUNCTION refresh_searched_versions(ids bigint[]) RETURNS void LANGUAGE plpgsql
    SET enable_seqscan = off AS $$
    BEGIN
        PERFORM 1 FROM adapter_versions WHERE id = ANY (ids) ORDER BY id FOR NO KEY UPDATE;
        DELETE FROM version_numbers WHERE version_id = ANY (ids);
        DELETE FROM searched_versions WHERE version_id = ANY (ids);
        {_insert_postgresql("v.id = ANY (ids)")}
    END $$""",  # noqa: S608
)


def _list_triggers() -> list[tuple[str, str]]:
    return [*((name, event) for name, event, *_ in _TRIGGERS), ("version_touched", _TOUCHED)]


def _trigger_postgresql(name: str, event: str, condition: str, ids: str) -> list[str]:
    return _write_trigger_postgresql(name, event, condition, f"PERFORM refresh_searched_versions(ARRAY({ids}))")


def _write_trigger_postgresql(name: str, event: str, condition: str, action: str) -> list[str]:
    lock = f"PERFORM {_LOCKS[name]};" if name in _LOCKS else ""
    return [
        f"""CREATE OR REPLACE FUNCTION search_{name}() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN {lock} {action}; RETURN NULL; END $$""",
        f"CREATE TRIGGER search_{name} AFTER {event} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION search_{name}()",
    ]
