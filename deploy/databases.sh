#!/bin/sh
# Makes the databases of ledger and MLflow, each with a user of its own that sees no other database.
# Run once by compose.yaml's first start, or by hand as the server's administrator:
#   LEDGER_PASSWORD=... MLFLOW_DATABASE_PASSWORD=... deploy/databases.sh
set -eu
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv ledger_password LEDGER_PASSWORD
\getenv mlflow_password MLFLOW_DATABASE_PASSWORD
create role ledger login password :'ledger_password';
create role mlflow login password :'mlflow_password';
create database ledger owner ledger;
create database mlflow owner mlflow;
create database mlflow_auth owner mlflow;
revoke connect, temporary on database ledger, mlflow, mlflow_auth from public;
SQL
