"""Leases on trials that run; on PostgreSQL, too, rows of trials and verdicts are never edited."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_REFUSAL = """
    CREATE FUNCTION ledger_row_stays() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'rows of the ledger are never edited'; END$$
"""


def upgrade() -> None:
    """Create the table of leases, and on PostgreSQL the triggers that refuse to edit rows."""
    op.create_table(
        "lease",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("owner", sa.String(32), nullable=False),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_REFUSAL)
        for table in ("trial", "verdict"):
            op.execute(
                f"CREATE TRIGGER {table}_no_edit BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION ledger_row_stays()"
            )


def downgrade() -> None:
    """Drop them."""
    if op.get_bind().dialect.name == "postgresql":
        for table in ("trial", "verdict"):
            op.execute(f"DROP TRIGGER {table}_no_edit ON {table}")
        op.execute("DROP FUNCTION ledger_row_stays()")
    op.drop_table("lease")
