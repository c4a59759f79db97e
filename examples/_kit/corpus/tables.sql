CREATE TABLE vessels (id INTEGER PRIMARY KEY, name TEXT, kind TEXT, length_m REAL, built INTEGER, owner TEXT);
CREATE TABLE berths (id INTEGER PRIMARY KEY, pier TEXT, vessel_id INTEGER REFERENCES vessels(id), fee_marks INTEGER);
CREATE TABLE crossings (id INTEGER PRIMARY KEY, day TEXT, passengers INTEGER, bicycles INTEGER, delay_minutes INTEGER);
CREATE TABLE landings (id INTEGER PRIMARY KEY, vessel_id INTEGER REFERENCES vessels(id), month TEXT, fish TEXT, kilograms INTEGER);
CREATE TABLE stalls (id INTEGER PRIMARY KEY, holder TEXT, goods TEXT, is_corner INTEGER);
CREATE TABLE loans (id INTEGER PRIMARY KEY, reader TEXT, book TEXT, borrowed TEXT, weeks INTEGER);
CREATE TABLE pupils (id INTEGER PRIMARY KEY, name TEXT, class INTEGER, apple_tree TEXT);
CREATE TABLE lamp_log (id INTEGER PRIMARY KEY, day TEXT, keeper TEXT, hours_lit REAL, remark TEXT);
