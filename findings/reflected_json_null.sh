#!/usr/bin/env bash
# SQLAlchemy 2.0.43, on SQLite.
#
# A column declared as JSON(none_as_null=True) stores None as SQL NULL, so that "IS NULL" finds it. One would guess that the
# same table, reflected from the database, behaves the same: name, type and constraints come back. The flag does not, since the
# database does not know of it: through the reflected table None is stored as the JSON text "null", and "IS NULL" and
# "IS NOT NULL" silently change their answers. Who reflects tables writes sqlalchemy.null() where SQL NULL is meant.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==2.0.43"
"$folder/venv/bin/python" - <<'EOF'
import sqlalchemy as sa

engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
declared = sa.Table("sample", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True),
                    sa.Column("notes", sa.JSON(none_as_null=True)))
declared.metadata.create_all(engine)
reflected = sa.Table("sample", sa.MetaData(), autoload_with=engine)

with engine.begin() as connection:
    connection.execute(declared.insert(), {"id": 1, "notes": None})
    connection.execute(reflected.insert(), {"id": 2, "notes": None})
    connection.execute(reflected.insert(), {"id": 3, "notes": sa.null()})
    stored = dict(connection.execute(sa.text("SELECT id, typeof(notes) FROM sample")).all())
    missing = set(connection.execute(sa.select(reflected.c.id).where(reflected.c.notes.is_(None))).scalars())

print("SQLAlchemy", sa.__version__, "stored as", stored, "and IS NULL finds", sorted(missing))
assert reflected.c.notes.type.none_as_null is False
assert stored == {1: "null", 2: "text", 3: "null"}
assert missing == {1, 3}
EOF
