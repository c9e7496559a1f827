-- The rows of `queue_filling`. Every `every`-th prediction waits; of the others some were spoken of.
CREATE TEMP TABLE made AS
SELECT n, at, gen_random_uuid() AS image, uuidv7(at - now()) AS prediction, uuidv7(at - now()) AS said,
    uuidv7(at - now()) AS item, (%(labels)s::text[])[1 + n %% 7] AS predicted,
    (%(labels)s::text[])[1 + (n + 1 + (hashtext(n::text) & 1)) %% 7] AS better,
    CASE WHEN n %% %(every)s = 0 THEN 'pending' WHEN n %% 50 = 1 THEN 'audited' WHEN n %% 15 = 2 THEN 'decided'
        WHEN n %% 6 = 4 THEN 'confirmed' ELSE 'silent' END AS fate,
    n %% %(every)s = 0 AND (n / %(every)s) %% 20 = 7 AS audit_waits
FROM (
    SELECT n, now() - interval '30 days' * (%(total)s - n) / %(total)s AS at
    FROM generate_series(1, %(total)s) n
) placed;
CREATE TEMP TABLE based AS
SELECT n, gen_random_uuid() AS image, (%(labels)s::text[])[1 + n %% 7] AS label,
    CASE WHEN n %% 5 = 0 THEN 'holdout' WHEN n %% 10 = 1 THEN 'validation' ELSE 'train' END AS split
FROM generate_series(1, %(base)s) n;
CREATE TEMP TABLE pictures AS
SELECT image FROM made WHERE fate IN ('pending', 'audited', 'decided') UNION ALL SELECT image FROM based;
INSERT INTO images (id, pixels_sha256, perceptual_hash, width, height, store_key, byte_size, created_at)
SELECT image, md5(n::text) || md5(n::text), n, 32, 32, md5(n::text), 1000, at FROM made
UNION ALL SELECT image, md5('b' || n) || md5('b' || n), -n, 32, 32, md5('b' || n), 1000, now() FROM based;
INSERT INTO predictions (id, model_id, version, image_id, label, scores, key_id, audit, created_at)
SELECT prediction, %(model)s, CASE WHEN n > %(total)s / 2 THEN %(live)s ELSE 1 END, image, predicted,
    ARRAY[0.5 + (n %% 1000) / 2500.0, 0.1, 0.02, 0.02, 0.02, 0.02, 0.02]::real[], 'app',
    fate = 'audited' OR audit_waits, at
FROM made;
INSERT INTO corrections (
    id, model_id, prediction_id, label, reporter, key_id, state, prepared_at, reviewed_at, created_at
)
SELECT said, %(model)s, prediction, better, 'line-' || (hashtext(n::text) & 63), 'app',
    CASE WHEN fate = 'pending' THEN 'pending' WHEN n %% 4 = 0 THEN 'rejected' ELSE 'approved' END, at,
    CASE WHEN fate = 'decided' THEN at END, at
FROM made WHERE fate = 'decided' OR (fate = 'pending' AND NOT audit_waits);
INSERT INTO confirmations (id, model_id, prediction_id, reporter, key_id, state, prepared_at, created_at)
SELECT said, %(model)s, prediction, 'line-' || (hashtext(n::text) & 63), 'app', 'active', at, at
FROM made WHERE fate = 'confirmed';
INSERT INTO image_groups (model_id, first_image_id, perceptual_hash, side)
SELECT %(model)s, image, n, 'train' FROM made WHERE fate = 'pending' ORDER BY n LIMIT %(groups)s;
INSERT INTO review_items (
    id, model_id, prediction_id, kind, queue, correction_id, reported, reporter, predicted, margin, doubt,
    group_id, created_at, closed_at
)
SELECT item, %(model)s, prediction, CASE WHEN audit THEN 'audit' ELSE 'correction' END,
    CASE WHEN audit THEN 'audits' ELSE 'corrections' END, CASE WHEN NOT audit THEN said END,
    CASE WHEN NOT audit THEN better END, CASE WHEN NOT audit THEN 'line-' || (hashtext(n::text) & 63) END,
    predicted, 0.4 + (n %% 1000) / 2500.0, random(),
    CASE WHEN fate = 'pending' THEN (SELECT min(id) FROM image_groups) + (hashtext(n::text) & 65535) %% %(groups)s END,
    at, CASE WHEN fate <> 'pending' THEN at END
FROM (SELECT *, fate = 'audited' OR audit_waits AS audit FROM made) m WHERE fate IN ('pending', 'audited', 'decided');
INSERT INTO group_members (model_id, image_id, group_id)
SELECT i.model_id, p.image_id, i.group_id
FROM review_items i JOIN predictions p ON p.id = i.prediction_id WHERE i.group_id IS NOT NULL;
INSERT INTO decisions (model_id, item_id, prediction_id, action, label, actor, final, counts, created_at)
SELECT %(model)s, item, prediction,
    CASE WHEN fate = 'decided' AND n %% 4 = 0 THEN 'reject' WHEN fate = 'audited' AND n %% 7 = 0 THEN 'relabel' ELSE 'approve' END,
    CASE WHEN fate = 'decided' THEN CASE WHEN n %% 4 > 0 THEN better END WHEN n %% 7 = 0 THEN better ELSE predicted END,
    'user:' || (ARRAY['ada', 'bo', 'cy'])[1 + n %% 3], true, fate = 'audited' OR n %% 4 > 0, at
FROM made WHERE fate IN ('decided', 'audited') ORDER BY n;
UPDATE corrections c SET decision_id = d.id
FROM decisions d WHERE d.prediction_id = c.prediction_id AND c.state IN ('approved', 'rejected');
INSERT INTO samples (model_id, image_id, label, split, origin, by_person, prediction_id, decision_id, key_id, created_at)
SELECT %(model)s, m.image, d.label, CASE WHEN m.fate = 'audited' THEN 'holdout' WHEN m.n %% 5 = 0 THEN 'regression' ELSE 'train' END,
    CASE WHEN m.fate = 'audited' THEN 'audit' ELSE 'correction' END, true, m.prediction, d.id, 'app', m.at
FROM made m JOIN decisions d ON d.item_id = m.item AND d.label IS NOT NULL;
INSERT INTO samples (model_id, image_id, label, split, origin, by_person, created_at)
SELECT %(model)s, image, label, split, 'base', true, now() FROM based;
INSERT INTO samples (model_id, image_id, label, split, origin, by_person, prediction_id, key_id, created_at)
SELECT %(model)s, image, predicted, CASE WHEN n %% 5 = 0 THEN 'kept' ELSE 'train' END, 'confirmation', false, prediction, 'app', at
FROM made WHERE fate = 'confirmed';
UPDATE runs SET decision_cut = (SELECT max(id) - 38 FROM decisions) WHERE state = 'promoted';
INSERT INTO trigger_checks (model_id, kind, policy, counts, fired, reason, at)
SELECT %(model)s, 'head', '{}', '{}', false, 'below-threshold', at FROM made WHERE n %% 30 = 0 ORDER BY n;
INSERT INTO audit_log (seq, at, actor, action, subject, detail, previous_hash, hash)
SELECT s.last + row_number() OVER (ORDER BY d.id), d.created_at, d.actor, 'decision.' || d.action, 'model:animals',
    jsonb_build_object('decision', d.id, 'item', d.item_id, 'label', d.label), md5('p' || d.id), md5('h' || d.id)
FROM decisions d, (SELECT coalesce(max(seq), 0) AS last FROM audit_log) s;
INSERT INTO api_keys (id, name, secret_sha256, scopes)
SELECT 'app-' || n, 'app', md5(n::text), '{predict,feedback}' FROM generate_series(1, 40) n;
INSERT INTO users (name, password_hash, scopes) SELECT 'person-' || n, 'x', '{review}' FROM generate_series(1, 40) n
