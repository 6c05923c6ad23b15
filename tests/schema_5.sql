-- A database as version 5 of the schema had it: a profile, a room and two messages.
PRAGMA application_id = 1919905645;
PRAGMA user_version = 5;
BEGIN TRANSACTION;
CREATE TABLE "clock" ("id" INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), "last_time" INTEGER NOT NULL);
INSERT INTO "clock" VALUES(1,1795623740401);
CREATE TABLE "room" ("room_id" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, "name" TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 60), "section" TEXT NOT NULL CHECK (length(section) BETWEEN 1 AND 30), "description" TEXT NOT NULL CHECK (length(description) BETWEEN 0 AND 1000), "room_owner_id" TEXT NOT NULL CHECK (length(room_owner_id) BETWEEN 1 AND 64), "folded_name" TEXT NOT NULL, "folded_section" TEXT NOT NULL, "capacity" INTEGER NOT NULL DEFAULT 500 CHECK (capacity BETWEEN 2 AND 500));
INSERT INTO "room" VALUES(2,'ＬＯＬ 开黑','LOL','今晚','ming','lol 开黑','lol',5);
CREATE TABLE "member" ("room_id" INTEGER NOT NULL, "joined" INTEGER NOT NULL, "openid" TEXT NOT NULL CHECK (length(openid) BETWEEN 1 AND 64), "is_owner" INTEGER NOT NULL DEFAULT 0, PRIMARY KEY ("room_id", "joined"), FOREIGN KEY ("room_id") REFERENCES "room" ("room_id") ON DELETE CASCADE) WITHOUT ROWID;
INSERT INTO "member" VALUES(2,1795623740398,'ming',1);
INSERT INTO "member" VALUES(2,1795623740399,'hong',0);
CREATE TABLE "message" ("room_id" INTEGER NOT NULL, "message_id" INTEGER NOT NULL, "openid" TEXT NOT NULL CHECK (length(openid) BETWEEN 0 AND 64), "message" TEXT NOT NULL CHECK (length(message) BETWEEN 0 AND 2000), "time" INTEGER NOT NULL, PRIMARY KEY ("room_id", "message_id"), FOREIGN KEY ("room_id") REFERENCES "room" ("room_id") ON DELETE CASCADE) WITHOUT ROWID;
INSERT INTO "message" VALUES(2,1795623740400,'hong','今晚八点？',1795620140400);
INSERT INTO "message" VALUES(2,1795623740401,'ming','好 🎮',1795623740401);
CREATE TABLE "memory" ("digest" TEXT NOT NULL PRIMARY KEY, "value" TEXT NOT NULL, "kept" INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE "report" ("id" INTEGER NOT NULL PRIMARY KEY, "reporter" TEXT NOT NULL, "openid" TEXT NOT NULL, "room_id" INTEGER NOT NULL, "message_id" INTEGER NOT NULL, "text" TEXT NOT NULL, "reason" TEXT NOT NULL, "time" INTEGER NOT NULL, "is_open" INTEGER NOT NULL);
INSERT INTO "report" VALUES(1,'hong','ming',2,1795623740401,'好 🎮','广告',1795623740500,1);
CREATE TABLE "ban" ("openid" TEXT NOT NULL PRIMARY KEY CHECK (length(openid) BETWEEN 1 AND 64)) WITHOUT ROWID;
INSERT INTO "ban" VALUES('gang');
CREATE TABLE "token" ("digest" TEXT NOT NULL PRIMARY KEY, "openid" TEXT NOT NULL CHECK (length(openid) BETWEEN 1 AND 64), "expires" INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO "token" VALUES('0000000000000000000000000000000000000000000000000000000000000000','ming',32503680000000);
CREATE TABLE "user" ("openid" TEXT NOT NULL PRIMARY KEY CHECK (length(openid) BETWEEN 1 AND 64), "sex" TEXT NOT NULL CHECK (sex IN ('0', '1', '2') OR json_type(sex) = 'text' AND length(json_extract(sex, '$')) BETWEEN 1 AND 16), "preference" TEXT NOT NULL CHECK (json_type(preference) = 'array' AND json_array_length(preference) <= 50), "nickname" TEXT NOT NULL CHECK (length(nickname) BETWEEN 0 AND 20)) WITHOUT ROWID;
INSERT INTO "user" VALUES('ming','"\u7537"','["\u7fbd\u6bdb\u7403","\u684c\u6e38"]','小明');
CREATE VIRTUAL TABLE "room_index" USING fts5 ("text", columnsize=0, detail=none, tokenize="trigram");
INSERT INTO room_index(room_index, rank) VALUES('crisismerge', 4);
INSERT INTO room_index (rowid, text) VALUES(-2, replace(replace('↓l↓o↓l↓ ↓开↓黑↓→l→o→l→ →开→黑→ →l→o→l→ →今→晚→', '↓', char(10)), '→', char(9)));
CREATE INDEX "room_room_owner_id" ON "room" ("room_owner_id");
CREATE INDEX "room_folded_name" ON "room" ("folded_name");
CREATE INDEX "room_folded_section" ON "room" ("folded_section");
CREATE UNIQUE INDEX "member_openid_room_id" ON "member" ("openid", "room_id");
CREATE INDEX "member_guest" ON "member" ("openid", "room_id") WHERE NOT "is_owner";
CREATE INDEX "memory_kept" ON "memory" ("kept");
CREATE INDEX "message_openid" ON "message" ("openid");
CREATE INDEX "report_openid" ON "report" ("openid");
CREATE INDEX "report_time" ON "report" ("time");
CREATE INDEX "report_room_id_message_id" ON "report" ("room_id", "message_id");
CREATE UNIQUE INDEX "report_once" ON "report" ("reporter", "room_id", "message_id") WHERE ("reporter" != '');
CREATE INDEX "token_openid" ON "token" ("openid");
CREATE INDEX "token_expires" ON "token" ("expires");
CREATE TRIGGER room_full BEFORE INSERT ON member
    WHEN (SELECT count(*) FROM member WHERE room_id = new.room_id)
        >= (SELECT capacity FROM room WHERE room_id = new.room_id)
    BEGIN SELECT RAISE(ABORT, 'room_full'); END;
CREATE TRIGGER capacity_too_small BEFORE UPDATE OF capacity ON room
    WHEN (SELECT count(*) FROM member WHERE room_id = new.room_id) > new.capacity
    BEGIN SELECT RAISE(ABORT, 'capacity_too_small'); END;
CREATE TRIGGER bad_preference BEFORE INSERT ON user
    WHEN EXISTS (
        SELECT 1 FROM json_each(new.preference)
        WHERE type != 'text' OR length(value) NOT BETWEEN 1 AND 30
    )
    BEGIN SELECT RAISE(ABORT, 'bad_preference'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('room',2);
COMMIT;
