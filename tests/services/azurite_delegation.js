// Preloaded into Azurite (node --require): the string-to-sign of a user delegation SAS from version 2026-04-06 on.
//
// Azurite 3.35 knows the versions up to 2025-11-05. Since 2026-04-06, two lines stand between the encryption scope and
// the five response headers: the request headers (signedRequestHeaders) and the query parameters
// (signedRequestQueryParameters) that a SAS requires. The SAS of the tests require none, so both lines are empty.
// https://learn.microsoft.com/rest/api/storageservices/create-user-delegation-sas
//
// Remove this when Azurite knows the version: it would then sign the two lines twice, and the tests would fail.
"use strict";

const path = require("node:path");

const blob = path.dirname(process.argv[1]);
const signatures = require(path.join(blob, "authentication", "IBlobSASSignatureValues"));
const { computeHMACSHA256 } = require(path.join(blob, "..", "common", "utils", "utils"));

const RESPONSE_HEADERS = 5;
const original = signatures.generateBlobSASSignatureWithUDK;

signatures.generateBlobSASSignatureWithUDK = (values, resource, account, key) => {
  const [signature, text] = original(values, resource, account, key);
  if (values.version < "2026-04-06") {
    return [signature, text];
  }
  const lines = text.split("\n");
  lines.splice(-RESPONSE_HEADERS, 0, "", "");
  const extended = lines.join("\n");
  return [computeHMACSHA256(extended, key), extended];
};
